"""LeanK: learns which K channels the archive needs (Zhang et al. 2025, arXiv 2508.02215).

Stage 1 learns a factor in [0, 1] for each layer, KV head and channel: the model reads the archive
through them, and shall end in the same hidden states as with the whole cache, while an L1 term
pulls the factors to 0. Stage 2 goes on with the factors cut to a mask. Beyond the paper: zones and
pages are those of the engine, pages may be quantised while learning, a head that keeps nothing is
left out of the softmax in stage 2 (as deployed) instead of scoring 0, several L1 weights share one
pass over the prompts, what is compared may be the next token's distribution, and the masks of
stage 2 are whole blocks that meet their share.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .cache import Reading, TailReader, prefill, tail_pass
from .masks import block_mask
from .model import Transformer


@dataclass(frozen=True)
class TailBatch:
    """Prompts and the rows behind them that learn or are measured."""

    ids: Tensor  # (B, P), padded on the right
    lengths: Tensor  # (B)
    tail: Tensor  # (B, A), padded on the right
    zone_positions: Tensor  # (B, A), see cache.tail_pass
    weights: Tensor  # (B, A), 0 for rows that do not count

    def to(self, device: torch.device) -> "TailBatch":
        """The same on another device."""
        return TailBatch(*(value.to(device) for value in vars(self).values()))


@dataclass(frozen=True)
class LeankConfig:
    """One run of a stage; the defaults are the experiment's."""

    l1: tuple[float, ...] = (0.02, 0.06, 0.2)  # weights of mean |factor|, one set of factors each
    learning_rate: float = 0.02
    steps: int = 400
    seconds: float = math.inf  # no step begins later, and the rate decays towards that time
    loss: str = "hidden"  # one of LOSSES
    reading: Reading = Reading()  # zones and storage while learning
    pruned: float = 0.7  # stage 2 only
    align: int = 16  # stage 2 only
    log_every: int = 20


LOSSES = ("hidden", "logits")


def rate_at(part: float, peak: float) -> float:
    """Linear warm-up over the first fifth, flat, linear decay over the last fifth; floor 0.1.
    `part` of the run is over at the end of the step, above 0 and up to 1."""
    return peak * max(0.1, min(1.0, part / 0.2, (1 - part) / 0.2))


def distillation(hidden: Tensor, reference: Tensor, weights: Tensor) -> Tensor:
    """Mean over counted rows of the mean squared difference over hidden channels."""
    error = (hidden.float() - reference.float()).square().mean(-1)  # (B, A)
    return (error * weights).sum() / weights.sum().clamp(min=1)


def divergence(model: Transformer, hidden: Tensor, reference: Tensor, weights: Tensor) -> Tensor:
    """Mean over counted rows of KL(reference || hidden) of the next token's distributions, nats."""
    rows = weights > 0
    output = model.output_weight.float()
    ours = F.linear(hidden[rows].float(), output).log_softmax(-1)
    theirs = F.linear(reference[rows].float(), output).log_softmax(-1)
    return (theirs.exp() * (theirs - ours)).sum(-1).mean()


def distance(
    model: Transformer, hidden: Tensor, reference: Tensor, weights: Tensor, loss: str
) -> Tensor:
    """How far rows are from those with the whole cache, by one of LOSSES."""
    if loss == "logits":
        return divergence(model, hidden, reference, weights)
    return distillation(hidden, reference, weights)


def reference_pass(model: Transformer, batch: TailBatch) -> tuple[TailReader, Tensor]:
    """The teacher's hidden states, and its reader, whose prompt cache others share."""
    with torch.no_grad():
        cache = prefill(model, batch.ids, batch.lengths)
        reader = TailReader(cache, Reading(), dense=True)
        return reader, tail_pass(model, reader, batch.tail, batch.zone_positions)


def read_with(
    model: Transformer, teacher: TailReader, batch: TailBatch, reading: Reading
) -> Tensor:
    """Hidden states of the tail under `reading`, from the teacher's prompt cache."""
    reader = TailReader(teacher.cache, reading)
    return tail_pass(model, reader, batch.tail, batch.zone_positions)


def _steps(config: LeankConfig) -> Iterator[tuple[int, float]]:
    """Steps, and the part of the run that is over at the end of each; 1 at the end of the last."""
    began = time.monotonic()
    for step in range(config.steps):
        # A step takes what those before it took in the mean.
        seconds = (time.monotonic() - began) * (step + 1) / max(1, step)
        part = min(1.0, max((step + 1) / config.steps, seconds / config.seconds))
        yield step, part
        if part == 1:
            return


def _freeze(model: Transformer) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def learn_factors(
    model: Transformer,
    batches: Iterator[TailBatch],
    config: LeankConfig,
    start: Tensor | None = None,
    log: Callable[[dict[str, object]], None] = lambda _: None,
    keep: Callable[[Tensor], None] = lambda _: None,
) -> Tensor:
    """Stage 1: factors (len(l1), layers, kv_heads, head_dim) in [0, 1]. `keep` gets them whenever
    a line is logged: a run that is cut short then still has plans."""
    shape = (model.config.layers, model.config.kv_heads, model.config.head_dim)

    def reading_of(factors: Tensor) -> Reading:
        return replace(config.reading, factors=factors[:, None])

    begin = torch.ones(shape) if start is None else start
    return _distil(model, batches, config, begin, reading_of, log, keep)


def learn_gates(
    model: Transformer,
    batches: Iterator[TailBatch],
    config: LeankConfig,
    log: Callable[[dict[str, object]], None] = lambda _: None,
) -> Tensor:
    """DuoAttention (Xiao et al. 2024, arXiv 2410.10819): gates (len(l1), layers, kv_heads) in
    [0, 1] between a head that reads everything and one that reads sink and recent."""

    def reading_of(gates: Tensor) -> Reading:
        return replace(config.reading, gates=gates[:, None])

    begin = torch.ones(model.config.layers, model.config.kv_heads)
    return _distil(model, batches, config, begin, reading_of, log, lambda _: None)


def _distil(
    model: Transformer,
    batches: Iterator[TailBatch],
    config: LeankConfig,
    begin: Tensor,
    reading_of: Callable[[Tensor], Reading],
    log: Callable[[dict[str, object]], None],
    keep: Callable[[Tensor], None],
) -> Tensor:
    """Learns one set of values in [0, 1] for each L1 weight: what `reading_of` makes of them shall
    end in the same hidden states as the whole cache, and their mean be small."""
    _freeze(model)
    device = model.token_embd.weight.device
    sets = [begin.clone().to(device).requires_grad_(True) for _ in config.l1]
    optimiser = torch.optim.AdamW(sets, lr=config.learning_rate, weight_decay=0.0)
    for step, part in _steps(config):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(part, config.learning_rate)
        with torch.no_grad():
            for values in sets:
                values.clamp_(0, 1)
        batch = next(batches).to(device)
        teacher, reference = reference_pass(model, batch)
        losses = []
        optimiser.zero_grad()
        for values, weight in zip(sets, config.l1, strict=True):
            hidden = read_with(model, teacher, batch, reading_of(values.clamp(0, 1)))
            loss = distance(model, hidden, reference, batch.weights, config.loss)
            (loss + weight * values.abs().mean()).backward()
            losses.append(loss.detach())
        optimiser.step()
        if step % config.log_every == 0 or part == 1:
            log({
                "step": step,
                "l1": list(config.l1),
                "distillation": [round(float(loss), 6) for loss in losses],
                "mean_factor": [round(float(values.detach().mean()), 4) for values in sets],
            })  # fmt: skip
            keep(torch.stack([values.detach().clamp(0, 1) for values in sets]))
    return torch.stack([values.detach().clamp(0, 1) for values in sets])


def refine_factors(
    model: Transformer,
    batches: Iterator[TailBatch],
    start: Tensor,
    config: LeankConfig,
    log: Callable[[dict[str, object]], None] = lambda _: None,
) -> Tensor:
    """Stage 2: goes on with mask * factor in the forward pass and the gradient straight through
    to every channel; the mask (layers, kv_heads, head_dim) is what deployment uses."""
    _freeze(model)
    device = model.token_embd.weight.device
    factors = start.clone().to(device).requires_grad_(True)
    optimiser = torch.optim.AdamW([factors], lr=config.learning_rate, weight_decay=0.0)
    for step, part in _steps(config):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(part, config.learning_rate)
        with torch.no_grad():
            factors.clamp_(0, 1)
            mask = block_mask(factors, config.pruned, config.align)
        batch = next(batches).to(device)
        teacher, reference = reference_pass(model, batch)
        clamped = factors.clamp(0, 1)
        through = clamped + (clamped * mask - clamped).detach()
        reading = replace(
            config.reading, factors=through[:, None], alive=(mask.sum(-1) > 0)[:, None]
        )
        hidden = read_with(model, teacher, batch, reading)
        loss = distance(model, hidden, reference, batch.weights, config.loss)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % config.log_every == 0 or part == 1:
            log({"step": step, "stage": 2, "distillation": round(float(loss.detach()), 6)})
    return block_mask(factors.detach().clamp(0, 1), config.pruned, config.align)


def mask_reading(mask: Tensor, reading: Reading) -> Reading:
    """`reading` through a mask (layers, kv_heads, head_dim), as deployed."""
    return replace(reading, factors=mask[:, None], alive=(mask.sum(-1) > 0)[:, None])


def measure(
    model: Transformer, batches: list[TailBatch], readings: list[Reading], loss: str = "hidden"
) -> list[float]:
    """Mean distance of each reading over the batches: what candidates compete by."""
    device = model.token_embd.weight.device
    sums = [0.0] * len(readings)
    with torch.no_grad():
        for batch in batches:
            batch = batch.to(device)
            teacher, reference = reference_pass(model, batch)
            for index, reading in enumerate(readings):
                hidden = read_with(model, teacher, batch, reading)
                sums[index] += float(distance(model, hidden, reference, batch.weights, loss))
    return [value / max(1, len(batches)) for value in sums]


def masks_of(factors: Tensor, shares: tuple[float, ...], align: int = 16) -> dict[float, Tensor]:
    """Masks for several shares of one stage 1, each met to a block."""
    return {share: block_mask(factors, share, align) for share in shares}
