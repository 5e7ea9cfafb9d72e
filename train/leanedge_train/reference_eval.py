"""Scores tasks under many methods, in batches: python3 -m leanedge_train.reference_eval ...

Tasks are JSONL (train/README.md, "Evaluation tasks"). A batch of prompts is read once, densely;
then every method answers greedily behind it, reading the prompt through its plan as the engine
does. Writes one JSON line for each sample and method, and a table at the end.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from .cache import PromptCache, Reading, TailReader, exact_enough, prefill, tail_pass
from .load import open_model
from .methods import THINK_QUERIES, Method, Scores, parse_method, think_scores
from .model import Transformer
from .tokenizer import tokenizer_of

ANSWER_TOKENS = 96  # of an answer, unless the task says otherwise; at most `recent`
PROMPT_TOKENS_AT_ONCE = 131_072  # of one batch, padding included
CALIBRATION_PROMPTS = 16


@dataclass(frozen=True)
class EvalTask:
    """One sample; fields as in the file."""

    task: str
    length: int
    ids: list[int]
    answers: list[str]
    score: str  # all, any or exact
    seed: int
    max_tokens: int = ANSWER_TOKENS


def read_tasks(path: Path) -> list[EvalTask]:
    """Reads and checks a file of tasks."""
    tasks = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        task = EvalTask(**json.loads(line))
        if task.score not in ("all", "any", "exact") or not task.answers or not task.ids:
            raise ValueError(f"{path}:{number}: score {task.score!r}, {len(task.answers)} answers")
        tasks.append(task)
    return tasks


def score_of(task: EvalTask, text: str) -> float:
    """all: the share of answers that occur; any: 1 if one does; exact: 1 if the text is one."""
    if task.score == "exact":
        return float(text.strip() in task.answers)
    found = [float(answer.casefold() in text.casefold()) for answer in task.answers]
    return sum(found) / len(found) if task.score == "all" else max(found)


def batches(tasks: list[EvalTask], tokens_max: int) -> Iterator[list[EvalTask]]:
    """Tasks of about equal length together, at most tokens_max with padding."""
    batch: list[EvalTask] = []
    for task in sorted(tasks, key=lambda task: len(task.ids)):
        if batch and (len(batch) + 1) * len(task.ids) > tokens_max:
            yield batch
            batch = []
        batch.append(task)
    if batch:
        yield batch


def read_prompts(model: Transformer, batch: list[EvalTask]) -> PromptCache:
    """The dense pass over a batch."""
    device = model.token_embd.weight.device
    lengths = torch.tensor([len(task.ids) for task in batch], device=device)
    ids = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
    for row, task in enumerate(batch):
        ids[row, : len(task.ids)] = torch.tensor(task.ids)
    return prefill(model, ids.to(device), lengths, THINK_QUERIES)


@torch.no_grad()
def answer(
    model: Transformer, cache: PromptCache, reading: Reading, end: int, tokens_max: int, dense: bool
) -> list[list[int]]:
    """Greedy answers, without their end token."""
    reader = TailReader(cache, reading, dense=dense)
    token = model.logits(cache.last_hidden).argmax(-1)  # (B)
    said = [token]
    ended = token == end
    for step in range(tokens_max - 1):
        if bool(ended.all()):
            break
        position = cache.lengths[:, None] + step
        hidden = tail_pass(model, reader, token[:, None], position)
        token = model.logits(hidden[:, -1]).argmax(-1)
        said.append(token)
        ended |= token == end
    rows = torch.stack(said, 1).tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]


@torch.no_grad()
def calibrate(model: Transformer, tasks: list[EvalTask]) -> Tensor:
    """Mean of ThinK's scores over a few prompts: (layers, kv_heads, head_dim)."""
    total: Tensor | None = None
    for batch in batches(tasks[:CALIBRATION_PROMPTS], PROMPT_TOKENS_AT_ONCE):
        scores = think_scores(read_prompts(model, batch)).sum(1).cpu()
        total = scores if total is None else total + scores
    if total is None:
        raise ValueError("no prompts to calibrate with")
    return total / min(len(tasks), CALIBRATION_PROMPTS)


def evaluate(
    model: Transformer,
    tokenizer: Tokenizer,
    end: int,
    tasks: list[EvalTask],
    methods: list[Method],
    batch_tokens: int = PROMPT_TOKENS_AT_ONCE,
) -> Iterator[dict[str, object]]:
    """One result for each task and method."""
    for batch in batches(tasks, batch_tokens):
        cache = read_prompts(model, batch)
        tokens_max = max(task.max_tokens for task in batch)
        for method in methods:
            dense = method.name == "full"
            rows = answer(model, cache, method.reading_for(cache), end, tokens_max, dense)
            for task, row in zip(batch, rows, strict=True):
                text = tokenizer.decode(row[: task.max_tokens])
                yield {
                    "method": method.name, "task": task.task, "length": task.length,
                    "seed": task.seed, "score": score_of(task, text), "text": text,
                }  # fmt: skip


def table(results: list[dict[str, object]], methods: list[Method]) -> str:
    """Mean score of each method and task, in per cent, and bytes of the archive."""
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    for result in results:
        scores[str(result["method"]), str(result["task"])].append(float(result["score"]))  # type: ignore[arg-type]
    tasks = sorted({task for _, task in scores})
    lines = ["method | bytes/token | mean | " + " | ".join(tasks)]
    for method in methods:
        means = [100 * sum(s) / max(1, len(s)) for s in (scores[method.name, t] for t in tasks)]
        size = f"{method.plan.archive_bytes_per_token():.0f}" if method.plan else "per prompt"
        cells = " | ".join(f"{mean:.1f}" for mean in means)
        lines.append(f"{method.name} | {size} | {sum(means) / len(means):.1f} | {cells}")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--tasks", type=Path, required=True)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--methods", nargs="+", default=["full"])
    options.add_argument("--factors", type=Path, help="factors.pt of learn_plan")
    options.add_argument("--factor-set", type=int, default=1, help="which L1 weight's")
    options.add_argument("--batch-tokens", type=int, default=PROMPT_TOKENS_AT_ONCE)
    options.add_argument("--limit", type=int, default=0, help="tasks; 0: all")
    options.add_argument(
        "--storage", default="", help="f16, q8_0 or q4_0: compute with those weights"
    )
    arguments = options.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    exact_enough()
    model, file = open_model(arguments.model)
    if file is None:
        raise ValueError(f"{arguments.model} has no vocabulary")
    if arguments.storage:
        from .weights import as_stored

        for name, parameter in model.named_parameters():
            parameter.data = as_stored(name, parameter.data, arguments.storage)
    model.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32).eval()
    tasks = read_tasks(arguments.tasks)
    tasks = tasks[: arguments.limit or len(tasks)]
    factors = None
    if arguments.factors:
        factors = torch.load(arguments.factors)["factors"][arguments.factor_set].float()
    scores = Scores(factors, calibrate(model, tasks[::-1]))
    methods = [parse_method(text, model.config, scores) for text in arguments.methods]
    began = time.monotonic()
    results = []
    with arguments.out.open("w") as out:
        for result in evaluate(
            model,
            tokenizer_of(file.vocabulary),
            file.vocabulary.eos_id,
            tasks,
            methods,
            arguments.batch_tokens,
        ):
            results.append(result)
            out.write(json.dumps(result) + "\n")
    print(table(results, methods))
    print(f"{len(results)} answers in {time.monotonic() - began:.1f} s on {device}")


if __name__ == "__main__":
    main()
