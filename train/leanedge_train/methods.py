"""Methods of compression as cache transforms, named by one line: `leank-70+k4+v2+quest-16`.

| part | meaning |
| --- | --- |
| full | everything is kept |
| leank-70 | learned factors, 70 % of K pruned, blocks compete over the model |
| leank-even-70 | learned factors, the same width in every head |
| duo-50 | DuoAttention: half of the heads become streaming heads, by their mean factor |
| think-70 | ThinK: channels by query and key of this prompt, the same width in every head |
| magnitude-70, magnitude-even-70 | ThinK's score averaged over calibration prompts, static |
| low-70 | the slowest RoPE pairs, the same in every head |
| random-70 | random channels, blocks of random heads |
| sink | sink and recent only |
| k8 k4 k2, v8 v4 v2 | page storage of K and V (KIVI) |
| quest-16 | a step reads 16 pages of each KV head |
| a path that ends in .json | a plan file; other parts are added to it |
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .cache import PromptCache, Reading
from .config import ModelConfig
from .masks import block_mask, even_mask, head_mask
from .plan import CachePlan, kept_of, read_plan

THINK_QUERIES = 32  # queries at the end of a prompt that ThinK looks at
DEFAULT_READING = Reading()  # zones of 16 and 112, f16
_STORAGES = {"8": "int8", "4": "int4", "2": "int2"}

# Masks of a prompt batch: (layers, B or 1, KV, D).
MaskOf = Callable[[PromptCache], Tensor]


@dataclass(frozen=True)
class Scores:
    """What static masks are made from, each (layers, kv_heads, head_dim)."""

    factors: Tensor | None = None  # learned
    magnitude: Tensor | None = None  # calibrated


@dataclass(frozen=True)
class Method:
    """A parsed method."""

    name: str
    reading: Reading
    mask_of: MaskOf
    plan: CachePlan | None  # unless channels are chosen per prompt

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


def think_mask(cache: PromptCache, pruned: float, align: int = 16) -> Tensor:
    """ThinK's channels of each prompt."""
    scores = think_scores(cache)  # (layers, B, KV, D)
    width = round((1 - pruned) * scores.shape[-1] / align) * align
    rank = scores.argsort(-1, descending=True).argsort(-1)
    return (rank < width).float()


def low_frequency_mask(config: ModelConfig, pruned: float, align: int = 16) -> Tensor:
    """The slowest pairs of every head."""
    half = config.head_dim // 2
    speed = torch.arange(half, dtype=torch.float32).repeat(2)  # pair index: higher is slower
    values = speed.expand(config.layers, config.kv_heads, -1)
    return even_mask(values, pruned, align)


def _share(part: str) -> float:
    share = int(part.rsplit("-", 1)[1]) / 100
    if not 0 <= share <= 1:
        raise ValueError(f"{part!r}: a share of 0 to 100 expected")
    return share


def _static_mask(part: str, config: ModelConfig, scores: Scores) -> Tensor | None:
    shape = (config.layers, config.kv_heads, config.head_dim)
    if part == "full":
        return torch.ones(shape)
    if part == "sink":
        return torch.zeros(shape)
    if part.startswith("low-"):
        return low_frequency_mask(config, _share(part))
    if part.startswith("random-"):
        generator = torch.Generator().manual_seed(11)
        return block_mask(torch.rand(shape, generator=generator), _share(part))
    if part.startswith(("leank-", "duo-")):
        if scores.factors is None:
            raise ValueError(f"{part!r} needs learned factors")
        if part.startswith("duo-"):
            heads = config.layers * config.kv_heads
            return head_mask(scores.factors, round((1 - _share(part)) * heads))
        choose = even_mask if part.startswith("leank-even-") else block_mask
        return choose(scores.factors, _share(part))
    if part.startswith("magnitude-"):
        if scores.magnitude is None:
            raise ValueError(f"{part!r} needs calibrated magnitudes")
        choose = even_mask if part.startswith("magnitude-even-") else block_mask
        # Layers compete: each is scaled to the same mean.
        scaled = scores.magnitude / scores.magnitude.mean((1, 2), keepdim=True)
        return choose(scaled, _share(part))
    return None


def parse_method(
    text: str, config: ModelConfig, scores: Scores, base: Reading = DEFAULT_READING
) -> Method:
    """Parses a method's line; see the head of this file."""
    mask: Tensor | None = None
    per_prompt: MaskOf | None = None
    reading = base
    for part in text.split("+"):
        if part.endswith(".json"):
            plan = read_plan(Path(part))
            mask = plan.mask()
            reading = Reading(
                sink=plan.sink, recent=plan.recent, storage_k=plan.storage_k,
                storage_v=plan.storage_v, pages_per_step=plan.pages_per_step,
                pages_floor=max(plan.pages_floor, plan.pages_per_step),
            )  # fmt: skip
        elif part.startswith("think-"):
            pruned = _share(part)
            per_prompt = lambda cache, pruned=pruned: think_mask(cache, pruned)  # noqa: E731
        elif part[0] in "kv" and part[1:] in _STORAGES:
            storage = _STORAGES[part[1:]]
            name = "storage_k" if part[0] == "k" else "storage_v"
            reading = replace(reading, **{name: storage})  # type: ignore[arg-type]
        elif part.startswith("quest-"):
            pages = int(part[6:])
            reading = replace(reading, pages_per_step=pages, pages_floor=pages)
        else:
            mask = _static_mask(part, config, scores)
            if mask is None:
                raise ValueError(f"{part!r} of {text!r} is no known method")
    if per_prompt is not None:
        return Method(text, reading, per_prompt, None)
    kept = mask if mask is not None else torch.ones(config.layers, config.kv_heads, config.head_dim)
    plan = CachePlan(
        kept_of(kept), config.head_dim, storage_k=reading.storage_k, storage_v=reading.storage_v,
        sink=reading.sink, recent=reading.recent, pages_per_step=reading.pages_per_step,
        pages_floor=reading.pages_floor, name="plan", model="*",
    )  # fmt: skip
    return Method(text, reading, lambda _: kept[:, None], plan)
