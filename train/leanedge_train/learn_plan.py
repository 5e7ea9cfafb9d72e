"""Learns cache plans: python3 -m leanedge_train.learn_plan --model FILE --corpus DIR --out DIR.

One stage 1 gives raw factors (factors.pt), a plan for each share of K that is to go, the best plans
for each byte target with and without a page budget, and a report (report.json). Plans for ranges of
context are several runs: --min-tokens and --max-tokens say what is learned from, --context what the
plans say that they are for.
"""

import argparse
import json
import math
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from .cache import Reading, exact_enough
from .corpus import read_corpus
from .exchange import ExchangeConfig, exchange_blocks
from .leank import (
    LOSSES,
    LeankConfig,
    learn_factors,
    learn_gates,
    mask_reading,
    measure,
    refine_factors,
)
from .load import open_model
from .masks import block_mask, candidates_for, fewest_bytes_read, with_page_budgets
from .plan import CachePlan, kept_of
from .plan_data import CONVERSATION_SHARES, chats, haystack_of, texts
from .tails import TailSource, tail_batches
from .tokenizer import renderer, tokenizer_of

MEASURED_BATCHES = 6
GATE_L1 = 0.05  # DuoAttention's


def file_name(model: str, plan: str) -> str:
    """Of a plan's file: models may have spaces and capitals in their names."""
    return f"{model.lower().replace(' ', '-')}.{plan}.json"


def reading_of(plan: CachePlan, device: torch.device) -> Reading:
    """How a plan reads."""
    reading = Reading(
        sink=plan.sink, recent=plan.recent, storage_k=plan.storage_k, storage_v=plan.storage_v,
        pages_per_step=plan.pages_per_step, pages_floor=max(plan.pages_floor, plan.pages_per_step),
    )  # fmt: skip
    return mask_reading(plan.mask().to(device), reading)


class PlanMaker:
    """A model, what it is learned from, and what has come of it so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.began = time.monotonic()
        self.out: Path = arguments.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.model, file = open_model(arguments.model)
        if file is None:
            raise ValueError(f"{arguments.model}: a model with its vocabulary (GGUF) expected")
        self.name = file.name
        self.reading = Reading(
            sink=arguments.sink, recent=arguments.recent, storage_k=arguments.storage_k,
            storage_v=arguments.storage_v,
        )  # fmt: skip
        corpus = read_corpus(arguments.corpus)
        haystack = haystack_of(corpus, arguments.books)
        source = TailSource(
            arguments.samples, (arguments.min_tokens, arguments.max_tokens), arguments.recent,
            chats(corpus, haystack, arguments.data), renderer(file.vocabulary),
            texts(haystack, tokenizer_of(file.vocabulary)), arguments.text_share,
        )  # fmt: skip
        # The streams' first batches are made here: processes fork before the GPU starts.
        later = arguments.refine_steps + arguments.exchange_rounds > 0
        streams = [
            tail_batches(source, seed, arguments.workers) for seed in ((1, 3) if later else (1,))
        ]
        self.streams = [chain([next(stream)], stream) for stream in streams]
        self.measured = [source.batch(2, step) for step in range(arguments.measured)]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        exact_enough()
        self.model.to(self.device, torch.bfloat16 if torch.cuda.is_available() else torch.float32)
        self.lines: list[dict[str, object]] = []
        self.results: list[dict[str, object]] = []

    def log(self, line: dict[str, object]) -> None:
        """A line of the report, on the screen too."""
        self.lines.append(line)
        print(json.dumps(line), flush=True)

    def costs(self, readings: list[Reading]) -> list[float]:
        """How far answers are from those with the whole cache."""
        return measure(self.model, self.measured, readings, self.arguments.loss)

    def start(self) -> Tensor | None:
        """Factors that stage 1 begins with: those of a scores.json, if one is named."""
        if not self.arguments.start:
            return None
        return torch.tensor(json.loads(self.arguments.start.read_text())["factors"])

    def stage1(self) -> tuple[Tensor, tuple[float, ...]]:
        """Factors for each L1 weight, learned or read, and the weights."""
        given, l1 = self.arguments.factors, tuple(self.arguments.l1)
        gates: dict[str, Tensor] = {}

        def keep(factors: Tensor) -> None:
            state = {"factors": factors.cpu(), "l1": list(l1), **gates}
            beside = self.out / "factors.tmp"
            torch.save(state, beside)
            beside.replace(self.out / "factors.pt")

        if given:
            state = torch.load(given, map_location="cpu")
            factors, l1 = state["factors"].to(self.device), tuple(state["l1"])
            if "gates" in state:
                gates["gates"] = state["gates"]
        else:
            config = LeankConfig(
                l1=l1, learning_rate=self.arguments.learning_rate, steps=self.arguments.steps,
                seconds=self.arguments.stage1_seconds, loss=self.arguments.loss,
                reading=self.reading,
            )  # fmt: skip
            factors = learn_factors(
                self.model, self.streams[0], config, start=self.start(), log=self.log, keep=keep
            )
        if self.arguments.gate_steps > 0:
            keep(factors)
            config = LeankConfig(
                l1=(GATE_L1,), learning_rate=self.arguments.learning_rate,
                steps=self.arguments.gate_steps, reading=self.reading,
            )  # fmt: skip
            found = learn_gates(self.model, self.streams[0], config, log=self.log)
            gates["gates"] = found[0].cpu()
        keep(factors)
        return factors, l1

    def write(self, plan: CachePlan, **result: object) -> None:
        """The plan's file and its line of the report."""
        low, high = self.arguments.context
        suffix = "" if (low, high) == (0, 1_048_576) else f"-{low}-{high}"
        plan = replace(
            plan, name=plan.name + suffix, model=self.name, context_tokens_min=low,
            context_tokens_max=high,
        )  # fmt: skip
        plan.write(self.out / file_name(self.name, plan.name))
        self.results.append({
            "plan": plan.name, "pruned": round(1 - plan.kept_fraction, 4),
            "storage": [plan.storage_k, plan.storage_v], "pages_per_step": plan.pages_per_step,
            "archive_bytes_per_token": plan.archive_bytes_per_token(),
            "widths": [[len(channels) for channels in heads] for heads in plan.kept], **result,
        })  # fmt: skip
        print(json.dumps(self.results[-1]), flush=True)

    def refine(self, factors: Tensor, share: float) -> Tensor:
        """Stage 2."""
        config = LeankConfig(
            learning_rate=self.arguments.learning_rate / 2, steps=self.arguments.refine_steps,
            reading=self.reading, pruned=share, align=self.arguments.align,
            loss=self.arguments.loss,
        )  # fmt: skip
        return refine_factors(self.model, self.streams[1], factors, config, log=self.log)

    def exchange(self, factors: Tensor, mask: Tensor) -> Tensor:
        """Stage 3."""
        config = ExchangeConfig(
            reading=self.reading, rounds=self.arguments.exchange_rounds,
            seconds=self.arguments.exchange_seconds, loss=self.arguments.loss,
            align=self.arguments.align,
        )  # fmt: skip
        return exchange_blocks(
            self.model, self.streams[1], self.measured, factors, mask, config, log=self.log
        )

    def plan_for_share(self, factors: Tensor, l1: tuple[float, ...], share: float) -> None:
        """The plan that prunes a share of K, from the L1 weight whose mask costs least."""
        align = self.arguments.align
        masks, orders = [block_mask(one, share, align) for one in factors], list(factors)
        sources = [f"LeanK, stage 1 with L1 weight {weight}" for weight in l1]
        if self.arguments.refine_steps > 0:
            costs = self.costs([mask_reading(mask, self.reading) for mask in masks])
            best = costs.index(min(costs))
            masks.append(self.refine(factors[best], share))
            orders.append(factors[best])
            sources.append(f"LeanK, stage 2 after L1 weight {l1[best]}")
        costs = self.costs([mask_reading(mask, self.reading) for mask in masks])
        best = costs.index(min(costs))
        if self.arguments.exchange_rounds > 0:
            masks.append(self.exchange(orders[best], masks[best]))
            sources.append(f"{sources[best]}, blocks exchanged by trial")
            costs += self.costs([mask_reading(masks[-1], self.reading)])
            best = costs.index(min(costs))
        plan = CachePlan(
            kept_of(masks[best].cpu()), masks[best].shape[-1], storage_k=self.reading.storage_k,
            storage_v=self.reading.storage_v, sink=self.reading.sink, recent=self.reading.recent,
            name=f"leank-{round(100 * share)}", source=sources[best],
        )  # fmt: skip
        self.write(plan, distillation=costs[best], by_candidate=costs)

    def plan_for_bytes(self, factors: Tensor, target: float) -> None:
        """The plan whose answers are closest, of all that take at most `target` bytes a token; and,
        of the closest ones under page budgets, the one that reads least."""
        zones = {"sink": self.reading.sink, "recent": self.reading.recent}
        # Small shares of K are best chosen by a larger L1 weight: each set has its candidates.
        found = [
            candidate
            for one in factors
            for candidate in candidates_for(one.cpu(), target, align=self.arguments.align, **zones)
        ]
        plans = list({one.plan.fingerprint(): one.plan for one in found}.values())
        if not plans:
            raise ValueError(f"no plan takes {target} bytes a token")
        costs = self.costs([reading_of(plan, self.device) for plan in plans])
        best = costs.index(min(costs))
        name, source = f"bytes-{round(target)}", "LeanK, K and V bits and channels"
        self.write(
            replace(plans[best], name=name, source=f"{source} chosen for {target} bytes a token"),
            distillation=costs[best], candidates=len(plans),
        )  # fmt: skip
        limited = with_page_budgets(plans, costs, target)
        page_costs = self.costs([reading_of(plan, self.device) for plan in limited])
        chosen = fewest_bytes_read(limited, page_costs, costs[best])
        if chosen is None:
            return
        name = f"{name}-pages-{chosen.pages_per_step}"
        source = f"{source} and pages chosen for {target} bytes a token"
        self.write(
            replace(chosen, name=name, source=source),
            distillation=page_costs[limited.index(chosen)], candidates=len(limited),
        )  # fmt: skip


def learn(arguments: argparse.Namespace) -> dict[str, object]:
    """The whole pipeline; returns the report."""
    maker = PlanMaker(arguments)
    factors, l1 = maker.stage1()
    stage1_seconds = time.monotonic() - maker.began
    for share in arguments.shares:
        maker.plan_for_share(factors, l1, share)
    for target in arguments.bytes:
        maker.plan_for_bytes(factors, target)
    report: dict[str, object] = {
        "model": maker.name, "device": str(maker.device), "data": arguments.data,
        "stage1_seconds": round(stage1_seconds, 1),
        "seconds": round(time.monotonic() - maker.began, 1), "steps": arguments.steps,
        "l1": list(l1), "factor_by_frequency": frequency_rates(factors), "log": maker.lines,
        "plans": maker.results,
    }  # fmt: skip
    (maker.out / "report.json").write_text(json.dumps(report, indent=1))
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
    options.add_argument("--gate-steps", type=int, default=0, help="of DuoAttention's gates")
    options.add_argument("--refine-steps", type=int, default=0)
    options.add_argument(
        "--exchange-rounds", type=int, default=0, help="of stage 3: blocks change places by trial"
    )
    options.add_argument(
        "--exchange-seconds", type=float, default=math.inf, help="that stage 3 may take, each plan"
    )
    options.add_argument(
        "--stage1-seconds", type=float, default=math.inf, help="that stage 1 may take"
    )
    options.add_argument("--start", type=Path, help="scores.json: stage 1 begins with its factors")
    options.add_argument(
        "--loss", choices=LOSSES, default="hidden",
        help="what is compared with the whole cache: hidden states, or the next token's chances",
    )  # fmt: skip
    options.add_argument(
        "--measured", type=int, default=MEASURED_BATCHES, help="batches that candidates compete on"
    )
    options.add_argument("--samples", type=int, default=10, help="of a batch")
    options.add_argument("--min-tokens", type=int, default=512)
    options.add_argument("--max-tokens", type=int, default=4000)
    options.add_argument("--learning-rate", type=float, default=0.02)
    options.add_argument("--l1", type=float, nargs="+", default=[0.02, 0.06, 0.2])
    options.add_argument("--shares", type=float, nargs="*", default=[0.5, 0.6, 0.7, 0.8, 0.9])
    options.add_argument(
        "--align", type=int, choices=(16, 32), default=16, help="widths are multiples of it"
    )
    options.add_argument("--bytes", type=int, nargs="*", default=[])
    options.add_argument("--sink", type=int, default=16)
    options.add_argument("--recent", type=int, default=112)
    options.add_argument("--storage-k", default="f16")
    options.add_argument("--storage-v", default="f16")
    options.add_argument("--workers", type=int, default=0, help="processes that make batches")
    options.add_argument("--data", choices=sorted(CONVERSATION_SHARES), default="mixed")
    options.add_argument(
        "--text-share", type=float, default=0.25, help="of samples are passages of books"
    )
    options.add_argument(
        "--context", type=int, nargs=2, default=(0, 1_048_576), help="of the plans"
    )
    options.add_argument("--books", type=int, default=40, help="that haystacks come from")
    return options


if __name__ == "__main__":
    learn(parser().parse_args())
