"""Learns cache plans: python3 -m leanedge_train.learn_plan --model FILE --corpus DIR --out DIR.

One stage 1 gives raw factors (factors.pt), a plan for each share of K that is to go, the best plan
for each byte target, and a report (report.json).
"""

import argparse
import json
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from .cache import Reading, exact_enough
from .conversation import conversation
from .corpus import paragraphs_of, read_corpus
from .leank import LeankConfig, learn_factors, mask_reading, measure, refine_factors
from .load import open_model
from .masks import block_mask, candidates_for
from .plan import CachePlan, kept_of
from .retrieval import Haystack, retrieval_task
from .rows import CHARS_PER_TOKEN
from .tails import TailSource, tail_batches
from .tokenizer import Messages, renderer

MEASURED_BATCHES = 6
CONVERSATION_SHARE = 0.35


def chats(corpus_folder: Path, books_max: int):
    """make_chat of tails.tail_batches over a corpus: retrieval tasks and conversations."""
    corpus = read_corpus(corpus_folder)
    books = corpus.books[:books_max]
    haystack = Haystack(tuple(p for book in books for p in paragraphs_of(book)))

    def make_chat(random: Random, tokens: int) -> Messages:
        chars = round(tokens * CHARS_PER_TOKEN * 1.1)
        if random.random() < CONVERSATION_SHARE:
            return conversation(random, chars, corpus, haystack)
        return retrieval_task(random, chars, 1.0, haystack)

    return make_chat


def plan_of(mask: Tensor, reading: Reading, **rest: object) -> CachePlan:
    """The plan of a mask under a reading's zones and storage."""
    return CachePlan(
        kept_of(mask.cpu()), mask.shape[-1], storage_k=reading.storage_k,
        storage_v=reading.storage_v, sink=reading.sink, recent=reading.recent, **rest,  # type: ignore[arg-type]
    )  # fmt: skip


def reading_of(plan: CachePlan, device: torch.device) -> Reading:
    """How a plan reads."""
    reading = Reading(
        sink=plan.sink, recent=plan.recent, storage_k=plan.storage_k, storage_v=plan.storage_v,
        pages_per_step=plan.pages_per_step, pages_floor=max(plan.pages_floor, plan.pages_per_step),
    )  # fmt: skip
    return mask_reading(plan.mask().to(device), reading)


def learn(arguments: argparse.Namespace) -> dict[str, object]:
    """The whole pipeline; returns the report."""
    began = time.monotonic()
    model, file = open_model(arguments.model)
    if file is None:
        raise ValueError(f"{arguments.model}: a model with its vocabulary (GGUF) expected")
    reading = Reading(
        sink=arguments.sink, recent=arguments.recent, storage_k=arguments.storage_k,
        storage_v=arguments.storage_v,
    )  # fmt: skip
    render_chat = renderer(file.vocabulary)
    make_chat = chats(arguments.corpus, arguments.books)
    lengths = (arguments.min_tokens, arguments.max_tokens)

    source = TailSource(arguments.samples, lengths, arguments.recent, make_chat, render_chat)
    # Opened in this order, with their first batches made: processes fork before the GPU starts.
    streams = [tail_batches(source, seed, arguments.workers) for seed in (1, 3)]
    streams = [
        chain([next(stream)], stream) for stream in streams[: 1 + (arguments.refine_steps > 0)]
    ]
    measured = [source.batch(2, step) for step in range(MEASURED_BATCHES)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    exact_enough()
    model.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)

    lines: list[dict[str, object]] = []

    def log(line: dict[str, object]) -> None:
        lines.append(line)
        print(json.dumps(line), flush=True)

    config = LeankConfig(
        l1=tuple(arguments.l1), learning_rate=arguments.learning_rate, steps=arguments.steps,
        reading=reading,
    )  # fmt: skip

    def keep(factors: Tensor) -> None:
        torch.save({"factors": factors.cpu(), "l1": config.l1}, arguments.out / "factors.pt")

    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.factors:
        factors = torch.load(arguments.factors)["factors"].to(device)
    else:
        factors = learn_factors(model, streams[0], config, log=log, keep=keep)
    keep(factors)
    stage1_seconds = time.monotonic() - began

    name = file.name
    results: list[dict[str, object]] = []
    for share in arguments.shares:
        # The L1 weight that serves this share best, with masks as deployed.
        masks = [block_mask(one, share) for one in factors]
        costs = measure(model, measured, [mask_reading(mask, reading) for mask in masks])
        best = min(range(len(masks)), key=lambda index: costs[index])
        mask, cost = masks[best], costs[best]
        if arguments.refine_steps > 0:
            refined = refine_factors(
                model, streams[1], factors[best],
                replace(
                    config, steps=arguments.refine_steps, pruned=share,
                    learning_rate=config.learning_rate / 2,
                ),
                log=log,
            )  # fmt: skip
            refined_cost = measure(model, measured, [mask_reading(refined, reading)])[0]
            if refined_cost < cost:
                mask, cost = refined, refined_cost
        stem = f"leank-{round(100 * share)}"
        plan = plan_of(
            mask, reading, name=stem, model=name,
            source=f"LeanK, stage 1 with L1 weight {config.l1[best]}, {arguments.steps} steps",
        )  # fmt: skip
        plan.write(arguments.out / f"{name}.{stem}.json")
        results.append({
            "plan": stem, "pruned": round(1 - plan.kept_fraction, 4), "distillation": cost,
            "by_l1": costs, "archive_bytes_per_token": plan.archive_bytes_per_token(),
            "widths": [[len(channels) for channels in heads] for heads in plan.kept],
        })  # fmt: skip
        print(json.dumps(results[-1]), flush=True)
    for target in arguments.bytes:
        middle = factors[len(factors) // 2].cpu()
        candidates = candidates_for(middle, target, sink=reading.sink, recent=reading.recent)
        if not candidates:
            raise ValueError(f"no plan takes {target} bytes a token")
        costs = measure(model, measured, [reading_of(c.plan, device) for c in candidates])
        best = min(range(len(candidates)), key=lambda index: costs[index])
        plan = replace(
            candidates[best].plan, name=f"bytes-{round(target)}", model=name,
            source=f"LeanK, K and V bits and channels chosen for {target} bytes a token",
        )  # fmt: skip
        plan.write(arguments.out / f"{name}.bytes-{round(target)}.json")
        results.append({
            "plan": plan.name, "distillation": costs[best], "candidates": len(candidates),
            "archive_bytes_per_token": plan.archive_bytes_per_token(),
            "storage": [plan.storage_k, plan.storage_v], "pruned": round(1 - plan.kept_fraction, 4),
        })  # fmt: skip
        print(json.dumps(results[-1]), flush=True)
    report: dict[str, object] = {
        "model": name, "device": str(device), "stage1_seconds": round(stage1_seconds, 1),
        "seconds": round(time.monotonic() - began, 1), "steps": arguments.steps,
        "kept_by_frequency": frequency_rates(factors), "log": lines, "plans": results,
    }  # fmt: skip
    (arguments.out / "report.json").write_text(json.dumps(report, indent=1))
    return report


def frequency_rates(factors: Tensor, bands: int = 8) -> list[list[float]]:
    """Mean factor in bands of RoPE frequency, fast to slow, for each L1 weight."""
    pairs = factors.float().unflatten(-1, (2, -1)).mean(-2)  # a pair turns together
    count = min(bands, pairs.shape[-1])
    return [[round(float(band.mean()), 4) for band in one.chunk(count, dim=-1)] for one in pairs]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--corpus", type=Path, required=True)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--factors", type=Path, help="of an earlier stage 1: goes on from there")
    options.add_argument("--steps", type=int, default=150)
    options.add_argument("--refine-steps", type=int, default=0)
    options.add_argument("--samples", type=int, default=10, help="of a batch")
    options.add_argument("--min-tokens", type=int, default=512)
    options.add_argument("--max-tokens", type=int, default=4000)
    options.add_argument("--learning-rate", type=float, default=0.02)
    options.add_argument("--l1", type=float, nargs="+", default=[0.02, 0.06, 0.2])
    options.add_argument("--shares", type=float, nargs="*", default=[0.5, 0.6, 0.7, 0.8, 0.9])
    options.add_argument("--bytes", type=float, nargs="*", default=[])
    options.add_argument("--sink", type=int, default=16)
    options.add_argument("--recent", type=int, default=112)
    options.add_argument("--storage-k", default="f16")
    options.add_argument("--storage-v", default="f16")
    options.add_argument("--workers", type=int, default=0, help="processes that make batches")
    options.add_argument("--books", type=int, default=40, help="that haystacks come from")
    return options


if __name__ == "__main__":
    learn(parser().parse_args())
