"""A whole small life: a model is trained in two commands, exported, gets plans, and is scored."""

import json
import lzma
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from conftest import ask_engine, needs_engine, tiny_model
from test_load import write_hf, write_tokenizer

from leanedge_train import (
    export,
    learn_plan,
    make_plans,
    make_tasks,
    reference_eval,
    train_model,
)
from leanedge_train.corpus import corpus_hash
from leanedge_train.gguf_file import ModelFile, write_gguf
from leanedge_train.load import open_model
from leanedge_train.plan import read_plan
from leanedge_train.schedule import Schedule, length_cost, parse_lengths
from leanedge_train.tasks_file import read_tasks
from leanedge_train.tokenizer import embedded_vocabulary

WORDS = "a cat and a dog went to the old town by the sea where it rained all day".split()
STEPS = 60


def write_corpus(folder: Path) -> None:
    """Two books of a made-up language with little in it, one of them held out."""
    random = Random(1)

    def book(title: str) -> str:
        lines = [" ".join(random.choices(WORDS, k=25)) + "." for _ in range(150)]
        return f"Title: {title}\n\n" + "\n\n".join(lines)

    folder.mkdir(exist_ok=True)
    books = "\x1e".join([book("One"), book("Agnes Grey")])
    (folder / "books-0.txt.xz").write_bytes(lzma.compress(books.encode()))


def arguments(folder: Path, **changes: object):
    """The command line of the training run."""
    parsed = train_model.parser().parse_args([
        "--corpus", str(folder / "corpus"), "--out", str(folder / "run"), "--config", "tiny",
        "--steps", str(STEPS), "--batch-tokens", "512", "--lengths", "0:128,0.5:256",
        "--workers", "0", "--log-every", "5", "--probe-every", "20", "--probe-rows", "1",
        "--minutes", "4",
    ])  # fmt: skip
    for name, value in changes.items():
        setattr(parsed, name, value)
    return parsed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was cut after its first seconds and then went on to its end."""
    folder = tmp_path_factory.mktemp("train")
    write_corpus(folder / "corpus")
    first = train_model.train(arguments(folder, minutes=0.03))
    assert 0 < first.step < STEPS and not (folder / "run" / "model.pt").exists()
    done = train_model.train(arguments(folder))
    assert done.step == STEPS and done.seconds > first.seconds
    return folder


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    """The Q4_0 file of that model, with its card."""
    model, file = open_model(trained / "run" / "model.pt")
    assert file is not None
    path = trained / "tiny-q4_0.gguf"
    file = export.with_name(file, "tiny", model.config)
    export.write_gguf(path, model, file, "q4_0")
    assert export.largest_error(model, path, "q4_0") == 0
    log = export.read_log(trained / "run" / "log.jsonl")
    text = export.card(file, model, [path], log)
    assert text.count("# tiny") == 1 and f"in {STEPS} steps" in text and "CC BY" in text
    assert corpus_hash(trained / "corpus") in text
    return path


def test_training_lowers_both_losses_and_goes_on_from_its_checkpoint(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "run" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "text" in line]
    assert steps[0]["text"] > 8.5, "an untrained model knows nothing: ln 8192 = 9.0"
    assert steps[-1]["text"] < steps[0]["text"] - 2
    assert steps[-1]["answer"] < steps[0]["answer"] - 1
    assert sum("stopped" in line for line in lines) == 1
    starts = [line["start_step"] for line in lines if "start_step" in line]
    assert starts[0] == 0 and starts[1] > 0
    assert {line["length"] for line in steps} == {128, 256}
    assert lines[-1]["held_out_q4_0"] < 2000


def test_two_ranks_take_the_steps_that_one_takes(trained: Path, tmp_path: Path) -> None:
    words = [
        "--corpus", str(trained / "corpus"), "--config", "tiny", "--steps", "12",
        "--batch-tokens", "512", "--lengths", "0:128", "--workers", "0", "--log-every", "4",
        "--probe-rows", "0",
    ]  # fmt: skip
    models = []
    for ranks in (1, 2):
        out = tmp_path / str(ranks)
        more = [*words, "--out", str(out), "--ranks", str(ranks)]
        done = train_model.train(train_model.parser().parse_args(more), more)
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        assert (done.step, done.tokens) == (12, 12 * 4 * 129)
        assert lines[0]["ranks"] == ranks and sum("finished" in line for line in lines) == 1
        models.append(torch.load(out / "model.pt")["model"])
        assert lines[-1]["held_out_q4_0"] < 6000
    # Other rows, so other weights.
    assert any(not torch.equal(one, models[1][name]) for name, one in models[0].items())


def test_ranks_average_their_gradients_and_follow_the_first(tmp_path: Path) -> None:
    code = """
import sys, torch
from pathlib import Path
from leanedge_train.ranks import Ranks
ranks = Ranks(int(sys.argv[2]), 2, Path(sys.argv[1]))
gradients = [torch.full((2, 3), 1.0 + ranks.rank), torch.tensor([4.0 * ranks.rank])]
ranks.average(gradients)
print(gradients[0].unique().tolist(), gradients[1].tolist(), ranks.agree(7 + ranks.rank))
ranks.close()
"""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "meeting"), str(rank)],
            stdout=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    assert [one.communicate(timeout=60)[0].strip() for one in both] == ["[1.5] [2.0] 7"] * 2


def test_a_run_goes_on_from_a_model_that_came_home(
    trained: Path, exported: Path, tmp_path: Path
) -> None:
    def lines_of(folder: Path) -> list[dict]:
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return [line for line in lines if "text" in line]

    train_model.train(arguments(trained, out=tmp_path, steps=10, start=exported))
    before, after = lines_of(trained / "run"), lines_of(tmp_path)
    assert after[0]["text"] < before[0]["text"] - 2, "it begins with what was learned"
    assert after[-1]["rate"] < 0.2 and after[-1]["step"] == 10
    half = arguments(trained, start=exported, start_share=0.5)
    shares = [train_model.share_done(half, 100, step) for step in (0, 50, 100)]
    assert shares == [0.5, 0.75, 1.0]
    model, _ = open_model(exported)
    other = tmp_path / "other.gguf"
    vocabulary = embedded_vocabulary()
    vocabulary = replace(vocabulary, tokens=("<|other|>", *vocabulary.tokens[1:]))
    write_gguf(other, model, ModelFile("other", model.config, vocabulary), "f16")
    with pytest.raises(ValueError, match="another vocabulary"):
        train_model.train(arguments(trained, out=tmp_path / "refused", start=other))


@needs_engine()
def test_the_engine_answers_with_the_trained_model_under_its_plan(
    trained: Path, exported: Path
) -> None:
    out = trained / "plans"
    report = learn_plan.learn(learn_plan.parser().parse_args([
        "--model", str(exported), "--corpus", str(trained / "corpus"), "--out", str(out),
        "--steps", "3", "--refine-steps", "2", "--samples", "1", "--min-tokens", "200",
        "--max-tokens", "300", "--l1", "0.05", "0.2", "--shares", "0.5", "--bytes", "100",
        "--context", "0", "4096", "--align", "32",
    ]))  # fmt: skip
    assert json.loads((out / "report.json").read_text())["plans"] == report["plans"]
    assert torch.load(out / "factors.pt")["factors"].shape == (2, 2, 1, 32)
    names = [str(out / f"tiny.{name}-0-4096.json") for name in ("leank-50", "bytes-100")]
    assert read_plan(Path(names[1])).archive_bytes_per_token() <= 100
    assert read_plan(Path(names[0])).context_tokens_max == 4096
    found = ask_engine(
        model=str(exported), plans=names, prompt=list(range(300, 500)), answerTokens=3
    )
    assert [plan["name"] for plan in found["plans"][1:]] == [
        "leank-50-0-4096",
        "bytes-100-0-4096",
    ]
    for plan, name in zip(found["plans"][1:], names, strict=True):
        assert plan["fingerprint"] == read_plan(Path(name)).fingerprint()
    assert all(len(answer["tokens"]) == 3 for answer in found["answers"])
    assert found["rendered"] == embedded_vocabulary().chat_template


def run(monkeypatch: pytest.MonkeyPatch, command: Callable[[], None], line: str) -> None:
    """A command of the package, its arguments as one line."""
    monkeypatch.setattr("sys.argv", ["command", *line.split()])
    command()


def test_every_method_is_scored_on_the_same_tasks(
    trained: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, tasks, plans = trained / "corpus", trained / "tasks.jsonl", trained / "all-plans"
    monkeypatch.setattr(make_tasks, "SESSION_TURNS", (2,))
    kinds = "--kinds single session perplexity"
    run(monkeypatch, make_tasks.main,
        f"--corpus {corpus} --out {tasks} --lengths 300 --count 1 {kinds}")  # fmt: skip
    made = read_tasks(tasks)
    assert len(made) == 3 and all(len(task.ids) <= 300 for task in made)
    generator = torch.Generator().manual_seed(1)
    factors = torch.rand(1, 2, 1, 32, generator=generator)
    state = {"factors": factors, "l1": [0.1], "gates": torch.rand(2, 1, generator=generator)}
    torch.save(state, trained / "factors.pt")
    run(monkeypatch, make_plans.main,
        f"--model {exported} --corpus {corpus} --out {plans} --factors {trained / 'factors.pt'} "
        "--factor-set 0 --prompts 2 --tokens 200")  # fmt: skip
    names = {read_plan(path).name for path in plans.glob("tiny.*.json")}
    assert len(names) == 8 * len(make_plans.SHARES) and "duo-50" in names
    same = trained / "same"
    run(monkeypatch, make_plans.main,
        f"--model {exported} --scores {plans / 'scores.json'} --out {same}")  # fmt: skip
    for path in same.iterdir():
        assert path.read_bytes() == (plans / path.name).read_bytes(), path.name
    assert len(list(same.iterdir())) == len(names)
    lines = ("full", "leank-50", "leank-even-50", "heads-50", "duo-50", "leank-50+duo-50",
             "think-50", "magnitude-50", "magnitude-even-50", "low-50", "random-50", "sink",
             "full+k4+v2", "leank-50+k8+quest-2")  # fmt: skip
    out = trained / "scores.jsonl"
    run(monkeypatch, reference_eval.main,
        f"--model {exported} --tasks {tasks} --out {out} --plans {plans} "
        f"--methods {' '.join(lines)}")  # fmt: skip
    results = [json.loads(line) for line in out.read_text().splitlines()]
    with pytest.raises(ValueError, match="no known method"):
        run(monkeypatch, reference_eval.main,
            f"--model {exported} --tasks {tasks} --out {out} --methods bytes-1")  # fmt: skip
    run(monkeypatch, reference_eval.main,
        f"--model {exported} --tasks {tasks} --out {trained / 'few.jsonl'} --limit 1 "
        "--skip-missing --methods bytes-1 sink")  # fmt: skip
    few = [json.loads(line) for line in (trained / "few.jsonl").read_text().splitlines()]
    assert [line["method"] for line in few] == ["sink", "sink"]
    methods = [line for line in results if "task" not in line]
    assert [line["method"] for line in methods] == list(lines)
    assert all(line["model"] == "tiny-q4_0" and line["origin"] for line in methods)
    assert len(results) == len(lines) * (1 + len(made))
    assert all(0 <= line["score"] <= 1 for line in results if "task" in line)
    run(monkeypatch, export.main,
        f"--model {exported} --out {trained / 'again'} --name tiny --storages q4_0 "
        f"--log {trained / 'run' / 'log.jsonl'} --scores {out}")  # fmt: skip
    text = (trained / "again" / "tiny.md").read_text()
    loss = next(line["loss"] for line in results if "loss" in line and line["method"] == "sink")
    row = next(line for line in text.splitlines() if line.startswith("| perplexity | 300 |"))
    assert row.split(" | ")[2 + lines.index("sink")].rstrip(" |") == f"{math.exp(loss):.2f}"
    assert "`tiny-q4_0`, reference evaluator, 1 to 1 samples" in text


@needs_engine()
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_other_architectures_go_through_the_same_pipeline(
    trained: Path, tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, corpus = tiny_model(architecture=architecture), trained / "corpus"
    folder, plans, tasks = tmp_path / "checkpoint", tmp_path / "plans", tmp_path / "tasks.jsonl"
    folder.mkdir()
    write_hf(folder, model)
    write_tokenizer(folder, replace(embedded_vocabulary(), pre="qwen2"))
    run(monkeypatch, export.main,
        f"--model {folder} --out {tmp_path} --name tiny --storages f16 --no-card")  # fmt: skip
    gguf = tmp_path / "tiny-f16.gguf"
    learn_plan.learn(learn_plan.parser().parse_args([
        "--model", str(gguf), "--corpus", str(corpus), "--out", str(plans), "--steps", "2",
        "--gate-steps", "1", "--refine-steps", "1", "--samples", "1", "--min-tokens", "180",
        "--max-tokens", "250", "--l1", "0.1", "--shares", "0.5",
    ]))  # fmt: skip
    names = ("leank-50", "duo-50", "magnitude-50", "low-50")
    run(monkeypatch, make_plans.main,
        f"--model {gguf} --corpus {corpus} --out {plans} --factors {plans / 'factors.pt'} "
        f"--factor-set 0 --prompts 1 --tokens 200 --methods {' '.join(names)}")  # fmt: skip
    run(
        monkeypatch,
        make_tasks.main,
        f"--model {gguf} --corpus {corpus} --out {tasks} --lengths 260 --count 1 --kinds single",
    )
    out = tmp_path / "scores.jsonl"
    run(monkeypatch, reference_eval.main,
        f"--model {gguf} --tasks {tasks} --out {out} --plans {plans} "
        f"--methods full think-50 {' '.join(names)}")  # fmt: skip
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 2 * (2 + len(names))
    files = [str(plans / f"tiny.{name}.json") for name in names]
    found = ask_engine(model=str(gguf), plans=files, prompt=list(range(300, 500)), answerTokens=2)
    hashes = {line["method"]: line["plan_fingerprint"] for line in lines if "task" not in line}
    for name, plan in zip(names, found["plans"][1:], strict=True):
        assert plan["fingerprint"] == hashes[name], name
    assert found["plans"][0]["fingerprint"] == hashes["full"]


def test_perplexity_of_the_whole_cache_is_the_models_own(
    trained: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = open_model(exported)
    tasks, out = trained / "text.jsonl", trained / "losses.jsonl"
    run(
        monkeypatch,
        make_tasks.main,
        f"--corpus {trained / 'corpus'} --out {tasks} --lengths 200 --count 2 --kinds perplexity",
    )
    run(monkeypatch, reference_eval.main,
        f"--model {exported} --tasks {tasks} --out {out} --methods full sink")  # fmt: skip
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    found = {(line["method"], line["seed"]): line["loss"] for line in lines if "loss" in line}
    for task in read_tasks(tasks):
        piece = torch.tensor(task.ids)[None]
        logits = model.logits(model(piece[:, :-1]))[0, -task.max_tokens :]
        loss = float(torch.nn.functional.cross_entropy(logits, piece[0, -task.max_tokens :]))
        assert found["full", task.seed] == pytest.approx(loss, abs=1e-3)
        assert found["sink", task.seed] != found["full", task.seed]


def test_the_schedule_holds_the_rate_until_half_and_then_lowers_it() -> None:
    schedule = Schedule(lengths=parse_lengths("0:128,0.5:256"))
    assert [schedule.rate(done) for done in (0.02, 0.3, 0.5)] == [1.0, 1.0, 1.0]
    assert schedule.rate(0.75) == pytest.approx(0.5) and schedule.rate(1.0) == schedule.rate_floor
    assert [schedule.length(done) for done in (0, 0.49, 0.5, 1)] == [128, 128, 256, 256]
    assert not schedule.quantised(0.5) and schedule.quantised(0.95)
    assert 1.02 < schedule.mean_cost(0.0) < 1.03
    with pytest.raises(ValueError, match="must begin at 0"):
        parse_lengths("0.5:128")


@pytest.mark.parametrize("slower", [0.8, 1.0, 1.5])
def test_a_run_whose_long_rows_take_another_time_than_expected_ends_in_time(slower: float) -> None:
    options = train_model.parser().parse_args([
        "--corpus", "none", "--out", "none", "--total-minutes", "10",
    ])  # fmt: skip
    schedule, progress, plans = Schedule(), train_model.Progress(), 0
    while progress.steps == 0 or progress.step < progress.steps:
        done = progress.step / (progress.steps or options.steps_guess)
        length = schedule.length(done)
        cost = length_cost(length) * (slower if length > 1024 else 1)
        progress.step += 25
        progress.seconds += 25 * 0.08 * cost
        passed = train_model.plans_passed(progress)
        if (progress.steps == 0 and progress.step >= train_model.PLAN_AT) or passed > plans:
            speed = options.batch_tokens / (0.08 * cost)
            progress.steps = train_model.planned_steps(options, schedule, progress, speed, length)
            plans = max(plans, passed)
    assert plans == len(train_model.PLAN_AGAIN)
    assert 0.9 * 600 < progress.seconds < 600
