"""Methods of compression as cache transforms, named by one line: `leank-70+k4+v2+quest-16`.

Parts combine: a channel stays if every part keeps it. `leanedge eval run --method` knows the same
names (src/eval/methods.ts); what it cannot compute itself it reads from the plan files that
make_plans writes.

| part | meaning |
| --- | --- |
| full | everything is kept |
| leank-70 | learned factors, 70 % of K pruned, blocks compete over the model |
| leank-even-70 | learned factors, the same width in every head |
| duo-50 | DuoAttention: half of the heads become streaming heads, by their learned gate |
| heads-50 | the same by their mean factor |
| think-70 | ThinK: channels by query and key of this prompt, the same width in every head |
| magnitude-70, magnitude-even-70 | ThinK's score averaged over calibration prompts, static |
| low-70 | the slowest RoPE pairs, the same in every head |
| random-70 | random channels, blocks of random heads |
| sink | sink and recent only |
| k8 k4 k2, v8 v4 v2 | page storage of K and V (KIVI) |
| quest-16 | a step reads 16 pages of each KV head |
| a path that ends in .json, or the name of a plan that was read | a plan file |
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from .cache import PromptCache, Reading
from .config import ModelConfig
from .masks import block_mask, even_mask, even_width, head_mask, top_channels
from .plan import CachePlan, kept_of, read_plan

THINK_QUERIES = 32  # queries at the end of a prompt that ThinK looks at
RANDOM_SEED = 11
DEFAULT_READING = Reading()  # zones of 16 and 112, f16
_STORAGES = {"8": "int8", "4": "int4", "2": "int2"}

# Masks of a prompt batch: (layers, B or 1, KV, D).
MaskOf = Callable[[PromptCache], Tensor]


@dataclass(frozen=True)
class Scores:
    """What static masks are made from, each (layers, kv_heads, head_dim), gates (layers, kv_heads);
    and plans by name, which come first."""

    factors: Tensor | None = None  # learned
    magnitude: Tensor | None = None  # calibrated
    gates: Tensor | None = None  # learned
    plans: Mapping[str, CachePlan] = field(default_factory=dict)


def read_scores(path: Path | None, plans: Path | None = None) -> Scores:
    """scores.json of make_plans, and the plan files of a folder."""
    found = json.loads(path.read_text()) if path else {}
    tensors = {
        name: torch.tensor(found[name]) if name in found else None
        for name in ("factors", "magnitude", "gates")
    }
    read = [read_plan(file) for file in sorted(plans.glob("*.json"))
            if file.name not in ("scores.json", "report.json")] if plans else []  # fmt: skip
    return Scores(**tensors, plans={plan.name: plan for plan in read})


@dataclass(frozen=True)
class Method:
    """A parsed method."""

    name: str
    reading: Reading
    mask_of: MaskOf
    # Where channels are chosen per prompt, one of the same bytes.
    plan: CachePlan
    per_prompt: bool = False

    def reading_for(self, cache: PromptCache) -> Reading:
        """How the tail of this batch reads."""
        mask = self.mask_of(cache).to(cache.k[0].device)
        return replace(self.reading, factors=mask, alive=mask.sum(-1) > 0)


def think_scores(cache: PromptCache) -> Tensor:
    """Mean square of a channel's last queries times that of its keys: (layers, B, KV, D)."""
    scores = []
    for k, q in zip(cache.k, cache.queries, strict=True):
        slots = torch.arange(k.shape[2], device=k.device)
        valid = (slots < cache.lengths[:, None])[:, None, :, None]
        keys = (k.float().square() * valid).sum(2) / cache.lengths[:, None, None]
        queries = q.float().square().mean(2).unflatten(1, (k.shape[1], -1)).mean(2)
        scores.append(keys * queries)
    return torch.stack(scores)


def think_mask(cache: PromptCache, pruned: float) -> Tensor:
    """ThinK's channels of each prompt."""
    scores = think_scores(cache)  # (layers, B, KV, D)
    width = even_width(scores.shape[-1], pruned)
    return top_channels(scores, torch.full(scores.shape[:-1], width, device=scores.device)).float()


def low_frequency_mask(config: ModelConfig, pruned: float) -> Tensor:
    """The slowest pairs of every head: channel i turns with i + D / 2, pair 0 is the fastest."""
    pair = torch.arange(config.head_dim) % (config.head_dim // 2)
    width = even_width(config.head_dim, pruned)
    slow = (pair >= config.head_dim // 2 - width // 2).float()
    return slow.expand(config.layers, config.kv_heads, -1).clone()


def _share(part: str) -> float:
    share = int(part.rsplit("-", 1)[1]) / 100
    if not 0 <= share <= 1:
        raise ValueError(f"{part!r}: a share of 0 to 100 expected")
    return share


def _needed(values: Tensor | None, part: str, what: str) -> Tensor:
    if values is None:
        raise ValueError(f"{part!r} needs {what} (scores.json of make_plans)")
    return values


def static_mask(part: str, config: ModelConfig, scores: Scores) -> Tensor | None:
    """The mask (layers, kv_heads, head_dim) of one part, or None if it is no such method."""
    shape = (config.layers, config.kv_heads, config.head_dim)
    if part == "full":
        return torch.ones(shape)
    if part == "sink":
        return torch.zeros(shape)
    if part.startswith("low-"):
        return low_frequency_mask(config, _share(part))
    if part.startswith("random-"):
        generator = torch.Generator().manual_seed(RANDOM_SEED)
        return block_mask(torch.rand(shape, generator=generator), _share(part))
    stay = round((1 - _share(part)) * config.layers * config.kv_heads) if "-" in part else 0
    if part.startswith("duo-"):
        gates = _needed(scores.gates, part, "learned gates")
        return head_mask(gates[..., None].expand(shape), stay)
    if part.startswith("heads-"):
        return head_mask(_needed(scores.factors, part, "learned factors"), stay)
    if part.startswith("leank-"):
        choose = even_mask if part.startswith("leank-even-") else block_mask
        return choose(_needed(scores.factors, part, "learned factors"), _share(part))
    if part.startswith("magnitude-"):
        magnitude = _needed(scores.magnitude, part, "calibrated magnitudes")
        choose = even_mask if part.startswith("magnitude-even-") else block_mask
        # Layers compete: each is scaled to the same mean.
        return choose(magnitude / magnitude.mean((1, 2), keepdim=True), _share(part))
    return None


# What plans say of where they come from.
_ORIGINS = (
    ("sink", "no archive"),
    ("low-", "the slowest RoPE pairs"),
    ("random-", f"random blocks, seed {RANDOM_SEED}"),
    ("duo-", "whole heads by learned gates (DuoAttention)"),
    ("heads-", "whole heads by the mean of learned factors"),
    ("leank-even-", "learned factors (LeanK stage 1), the same width in every head"),
    ("leank-", "learned factors (LeanK stage 1), blocks of 16 channels compete over the model"),
    ("think-", "queries and keys of each prompt"),
    ("magnitude-even-", "mean square of queries x keys over calibration prompts, same widths"),
    ("magnitude-", "mean square of queries x keys over calibration prompts, blocks compete"),
)


def origin_of(part: str) -> str:
    """Where a part's channels come from; nothing for parts that choose none."""
    return next((text for start, text in _ORIGINS if part.startswith(start)), "")


def parse_method(
    text: str, config: ModelConfig, scores: Scores, base: Reading = DEFAULT_READING
) -> Method:
    """Parses a method's line; see the head of this file."""
    mask = torch.ones(config.layers, config.kv_heads, config.head_dim)
    pruned: float | None = None
    reading, origins, chosen = base, [], 0
    for part in text.split("+"):
        plan = read_plan(Path(part)) if part.endswith(".json") else scores.plans.get(part)
        if plan is not None:
            mask = mask * plan.mask()
            origins.append(plan.source or "a plan file")
            chosen += 1
            reading = Reading(
                sink=plan.sink, recent=plan.recent, storage_k=plan.storage_k,
                storage_v=plan.storage_v, pages_per_step=plan.pages_per_step,
                pages_floor=max(plan.pages_floor, plan.pages_per_step),
            )  # fmt: skip
        elif part.startswith("think-"):
            pruned = _share(part)
            mask = low_frequency_mask(config, pruned)  # of the same bytes
            origins.append(origin_of(part))
            chosen += 1
        elif part and part[0] in "kv" and part[1:] in _STORAGES:
            name = "storage_k" if part[0] == "k" else "storage_v"
            reading = replace(reading, **{name: _STORAGES[part[1:]]})  # type: ignore[arg-type]
        elif part.startswith("quest-"):
            pages = int(part[6:])
            reading = replace(reading, pages_per_step=pages, pages_floor=pages)
        else:
            more = static_mask(part, config, scores)
            if more is None:
                raise ValueError(f"{part!r} of {text!r} is no known method")
            mask = mask * more.cpu().float()
            if origin_of(part):
                origins.append(origin_of(part))
                chosen += 1
    if pruned is not None and chosen > 1:
        raise ValueError(f"{text!r}: channels that a prompt chooses go with no other choice")
    plan = CachePlan(
        kept_of(mask), config.head_dim, storage_k=reading.storage_k, storage_v=reading.storage_v,
        sink=reading.sink, recent=reading.recent, pages_per_step=reading.pages_per_step,
        pages_floor=reading.pages_floor, name=text.replace("+", "_"), model="*",
        source="; ".join(origins) or "all channels",
    )  # fmt: skip
    if pruned is not None:
        share = pruned
        return Method(text, reading, lambda cache: think_mask(cache, share), plan, True)
    return Method(text, reading, lambda _: mask[:, None], plan)
