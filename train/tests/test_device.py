"""The commands of train/device/, whole and in miniature: what comes back is enough to go on."""

import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from conftest import ROOT, TSX, needs_engine
from test_train import write_corpus

from leanedge_train.load import fingerprint

DEVICE = ROOT / "train" / "device"
DRY_SECONDS_MAX = 240  # it takes 25 on one core of its own
STILL_RUNNING = 75  # status of collect.sh


def command(*words: object) -> subprocess.CompletedProcess[str]:
    """Runs a script of train/device."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run(
        [str(word) for word in words], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=DRY_SECONDS_MAX, env=environment,
    )  # fmt: skip


def leanedge(*words: object) -> None:
    """Runs the `leanedge` command."""
    environment = {**os.environ, "PATH": f"{TSX.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [TSX, ROOT / "src" / "cli" / "main.ts", *(str(word) for word in words)], text=True,
        capture_output=True, timeout=DRY_SECONDS_MAX, env=environment, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def back(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a dry run leaves that went on behind its command, unpacked."""
    folder = tmp_path_factory.mktemp("device")
    write_corpus(folder / "corpus")
    work, out = folder / "work", folder / "out"
    began = time.monotonic()
    done = command(
        DEVICE / "run.sh", "--detach", "--dry", "--corpus", folder / "corpus", "--work", work,
        "--python", sys.executable, "--name", "tiny",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    early = command(DEVICE / "collect.sh", "--work", work, "--out", folder / "early")
    assert early.returncode == STILL_RUNNING and "still running" in early.stdout, early.stdout
    began_logs = {"log.jsonl", "logs.tgz", "run.log"}
    assert {path.name for path in (folder / "early").iterdir()} <= began_logs
    left = round(DRY_SECONDS_MAX - (time.monotonic() - began))
    done = command(DEVICE / "collect.sh", "--work", work, "--out", out, "--wait", left)
    log = (out / "run.log").read_text()
    assert done.returncode == 0, log[-3000:]
    assert "failed" not in log and "ended (0)" in done.stdout
    names = sorted(path.name for path in out.iterdir())
    assert names == ["log.jsonl", "logs.tgz", "part.aa", "run.log"]
    with tarfile.open(out / "logs.tgz") as logs:
        logs.extractall(folder / "logs")
    return folder


@pytest.fixture(scope="module")
def models(back: Path) -> dict[str, Path]:
    """The model's files, put together as train/device/README.md says, by storage."""
    whole = back / "tiny-f16.gguf"
    parts = sorted((back / "out").glob("part.*"))
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    done = command(
        "env", f"PYTHONPATH={ROOT / 'train'}", sys.executable, "-m", "leanedge_train.export",
        "--model", whole, "--out", back, "--name", "tiny", "--storages", "q4_0", "--no-card",
    )  # fmt: skip
    assert done.returncode == 0 and "read back 0.00e+00" in done.stdout, done.stdout[-2000:]
    return {"f16": whole, "q4_0": back / "tiny-q4_0.gguf"}


def test_the_files_that_come_back_are_the_model_that_was_scored(
    back: Path, models: dict[str, Path]
) -> None:
    logs = back / "logs"
    for scores, path in (
        ("plans/scores.jsonl", models["q4_0"]),
        ("scores-f16.jsonl", models["f16"]),
    ):
        lines = [json.loads(line) for line in (logs / scores).read_text().splitlines()]
        named = {line["model_fingerprint"] for line in lines if "task" not in line}
        assert named == {fingerprint(path)}, scores
    listed = json.loads((logs / "plans" / "plans" / "scores.json").read_text())
    assert listed["model_fingerprint"] == fingerprint(models["q4_0"])
    card = (logs / "export" / "tiny.md").read_text()
    assert "`tiny-q4_0.gguf`" in card and "`tiny-f16.gguf`" in card and "in 20 steps" in card


@needs_engine()
def test_the_engine_and_the_report_take_what_comes_back(
    back: Path, models: dict[str, Path]
) -> None:
    plans, folder, model = back / "logs" / "plans", back / "report", models["q4_0"]
    results = folder / "results"
    results.mkdir(parents=True)
    tasks = [json.loads(line) for line in (plans / "tasks.jsonl").read_text().splitlines()]
    few = [task for task in tasks if task["task"] in ("single", "perplexity")]
    samples = back / "tasks.jsonl"
    samples.write_text("".join(f"{json.dumps(task)}\n" for task in few))
    methods = "leank-70,leank-70+k4+v4,duo-50,bytes-100"
    leanedge("eval", "run", "--model", model, "--plans", plans / "plans", "--samples", samples,
             "--method", methods, "--out", results / "engine.jsonl")  # fmt: skip
    scores = (plans / "scores.jsonl").read_text()
    (results / "reference.jsonl").write_text(scores)
    leanedge("eval", "report", "--folder", folder)
    text = (folder / "results.md").read_text()
    assert "## tiny-q4_0, engine wasm" in text and "## tiny-q4_0, reference evaluator" in text

    def lines_of(text: str) -> list[dict]:
        return [json.loads(line) for line in text.splitlines()]

    found, wanted = lines_of((results / "engine.jsonl").read_text()), lines_of(scores)
    plan_of = {line["method"]: line["plan_fingerprint"] for line in wanted if "task" not in line}
    shared = [line for line in found if "task" not in line and line["method"] in plan_of]
    assert len(shared) == 4, "full, leank-70, with int4 pages, duo-50"
    for line in shared:
        assert line["plan_fingerprint"] == plan_of[line["method"]], line["method"]
    losses = {line["method"]: line["loss"] for line in wanted if "loss" in line}
    measured = [line for line in found if "loss" in line and line["method"] in losses]
    assert len(measured) == 4
    for line in measured:
        assert line["loss"] == pytest.approx(losses[line["method"]], abs=0.02), line["method"]


def test_a_run_that_fails_says_so_and_leaves_nothing_behind(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = command(
        "env", f"TMPDIR={scratch}", DEVICE / "run.sh", "--dry", "--corpus", tmp_path / "corpus",
        "--out", tmp_path / "out", "--python", "false",
    )  # fmt: skip
    assert done.returncode == 1
    for step in ("training", "export", "plans", "scores of F16"):
        assert f"{step} failed" in done.stdout, step
    assert list(scratch.glob("tmp.*")) == [], "nothing but --out is left"


@pytest.mark.parametrize(
    ("changes", "status"),
    [(("--python", "false"), 1), (("--seconds", "0"), 124)],
    ids=["fails", "has no time left"],
)
def test_every_step_that_fails_or_has_no_time_left_is_named(
    tmp_path: Path, changes: tuple[str, ...], status: int
) -> None:
    done = command(
        DEVICE / "plans.sh", "--model", "none.gguf", "--corpus", tmp_path, "--out",
        tmp_path / "out", "--dry", *changes,
    )  # fmt: skip
    assert done.returncode == 1
    for step in ("make_tasks", "learn_plan", "make_plans", "reference_eval"):
        assert f"{step} failed ({status}):" in done.stdout
