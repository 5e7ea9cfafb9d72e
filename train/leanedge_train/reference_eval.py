"""Scores tasks under many methods, in batches: python3 -m leanedge_train.reference_eval ...

Tasks are JSONL (train/README.md, "Evaluation tasks"). A batch of prompts is read once, densely;
then every method answers greedily behind it, reading the prompt through its plan as the engine
does. Writes one JSON line for each sample and method, and a table at the end.
"""

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from .cache import PromptCache, Reading, TailReader, prefill, tail_pass
from .load import open_measured
from .methods import THINK_QUERIES, Method, parse_method, read_scores
from .model import Transformer
from .results import method_line, result_line
from .tasks_file import EvalTask, read_tasks, score_of
from .tokenizer import tokenizer_of

PROMPT_TOKENS_AT_ONCE = 131_072  # of one batch, padding included


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
def mean_losses(model: Transformer, batch: list[EvalTask], methods: list[Method]) -> list[Tensor]:
    """Mean loss of each sample's targets, its last ids, for each method. All but the ids from the
    one before the first target on are a prompt; these are read as if they were generated."""
    device = model.token_embd.weight.device
    rows = batch[0].max_tokens
    prompts = [replace(task, ids=task.ids[: -rows - 1]) for task in batch]
    cache = read_prompts(model, prompts)
    tail = torch.tensor([task.ids[-rows - 1 : -1] for task in batch], device=device)
    targets = torch.tensor([task.ids[-rows:] for task in batch], device=device)
    positions = cache.lengths[:, None] + torch.arange(rows, device=device)
    found = []
    for method in methods:
        dense = method.name == "full"
        reader = TailReader(cache, Reading() if dense else method.reading_for(cache), dense)
        logits = model.logits(tail_pass(model, reader, tail, positions)).float()
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        found.append(losses.view_as(targets).mean(1).cpu())
    return found


def evaluate(
    model: Transformer,
    tokenizer: Tokenizer,
    end: int,
    tasks: list[EvalTask],
    methods: list[Method],
    batch_tokens: int = PROMPT_TOKENS_AT_ONCE,
) -> Iterator[dict[str, object]]:
    """One result for each task and method."""
    for rows in sorted({task.max_tokens for task in tasks if task.score == "loss"}):
        measured = [task for task in tasks if task.score == "loss" and task.max_tokens == rows]
        for batch in batches(measured, batch_tokens):
            for method, losses in zip(methods, mean_losses(model, batch, methods), strict=True):
                for task, loss in zip(batch, losses.tolist(), strict=True):
                    yield result_line(method, task, score=math.exp(-loss), text="", loss=loss)
    said = [task for task in tasks if task.score != "loss"]
    for batch in batches(said, batch_tokens):
        cache = read_prompts(model, batch)
        tokens_max = max(task.max_tokens for task in batch)
        for method in methods:
            dense = method.name == "full"
            rows = answer(model, cache, method.reading_for(cache), end, tokens_max, dense)
            for task, row in zip(batch, rows, strict=True):
                text = tokenizer.decode(row[: task.max_tokens])
                yield result_line(method, task, score=score_of(task, text), text=text)


def table(results: list[dict[str, object]], methods: list[Method]) -> str:
    """Mean score of each method and task, in per cent, perplexities beside them, and bytes."""
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    losses: dict[str, list[float]] = defaultdict(list)
    for result in results:
        name = str(result["method"])
        if "loss" in result:
            losses[name].append(float(result["loss"]))  # type: ignore[arg-type]
        else:
            scores[name, str(result["task"])].append(float(result["score"]))  # type: ignore[arg-type]
    tasks = sorted({task for _, task in scores})
    lines = ["method | bytes/token | perplexity | mean | " + " | ".join(tasks)]
    for method in methods:
        means = [100 * sum(s) / max(1, len(s)) for s in (scores[method.name, t] for t in tasks)]
        size, own = method.plan.archive_bytes_per_token(), losses[method.name]
        perplexity = f"{math.exp(sum(own) / len(own)):.2f}" if own else ""
        mean = f"{sum(means) / len(means):.1f}" if means else ""
        cells = " | ".join([f"{size:.0f}", perplexity, mean, *(f"{value:.1f}" for value in means)])
        lines.append(f"{method.name} | {cells}")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--tasks", type=Path, required=True)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--methods", nargs="+", default=["full"])
    options.add_argument("--plans", type=Path, help="folder of learn_plan and make_plans")
    options.add_argument("--batch-tokens", type=int, default=PROMPT_TOKENS_AT_ONCE)
    options.add_argument("--limit", type=int, default=0, help="tasks; 0: all")
    options.add_argument(
        "--storage", default="", help="f16, q8_0 or q4_0: compute with those weights"
    )
    options.add_argument(
        "--skip-missing", action="store_true",
        help="methods that there is no plan for are named and left out",
    )  # fmt: skip
    arguments = options.parse_args()
    measured = open_measured(arguments.model, arguments.storage)
    tasks = read_tasks(arguments.tasks)
    tasks = tasks[: arguments.limit or len(tasks)]
    listed = arguments.plans / "scores.json" if arguments.plans else None
    scores = read_scores(listed if listed and listed.exists() else None, arguments.plans)
    methods = []
    for text in arguments.methods:
        try:
            methods.append(parse_method(text, measured.model.config, scores))
        except ValueError as error:
            if not arguments.skip_missing:
                raise
            print(f"left out: {error}")
    began = time.monotonic()
    results = []
    vocabulary = measured.file.vocabulary
    # A line at a time: what a command that is cut short leaves can be read.
    with arguments.out.open("w", buffering=1) as out:
        for method in methods:
            out.write(json.dumps(method_line(method, measured, arguments.tasks.stem)) + "\n")
        for result in evaluate(
            measured.model, tokenizer_of(vocabulary), vocabulary.eos_id, tasks, methods,
            arguments.batch_tokens,
        ):  # fmt: skip
            results.append(result)
            out.write(json.dumps(result) + "\n")
    print(table(results, methods))
    print(f"{len(results)} results in {time.monotonic() - began:.1f} s on {measured.device}")


if __name__ == "__main__":
    main()
