"""Stage 3: blocks of channels change places between heads, by trial.

Stages 1 and 2 choose by values that were learned side by side; here what counts is measured. A
head keeps its best channels, so a mask is a width for each head. Each round tries, for every head,
one block less and one block more; then the blocks whose loss costs least make room for those that
bring most, as many pairs as are better on prompts that nothing was chosen by. The share of K stays.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from .cache import PromptCache, Reading, TailReader
from .leank import TailBatch, distance, mask_reading, measure, reference_pass
from .masks import top_channels, untied
from .model import Transformer, rope_table

Head = tuple[int, int]  # layer, KV head


@dataclass(frozen=True)
class ExchangeConfig:
    """How long and by what blocks change places."""

    reading: Reading = Reading()
    rounds: int = 8
    batches: int = 1  # that a round tries its blocks on
    seconds: float = float("inf")  # no round begins that would end later
    loss: str = "logits"  # one of leank.LOSSES
    align: int = 16


@dataclass
class _Trials:
    """What a block of a head is worth: means over all rounds that tried it."""

    sums: dict[tuple[Head, int], list[float]] = field(
        default_factory=lambda: defaultdict(lambda: [0.0, 0.0])
    )

    def add(self, head: Head, block: int, worth: float) -> None:
        found = self.sums[head, block]
        found[0] += worth
        found[1] += 1

    def worth(self, head: Head, block: int) -> float:
        total, count = self.sums[head, block]
        return total / count


def pairs_of(taken: dict[Head, float], given: dict[Head, float]) -> list[tuple[Head, Head, float]]:
    """Which heads give a block to which, best first, and by how much less is lost: each head once.

    `taken` says what the loss of a head's last block costs, `given` what one more brings."""
    cheap = sorted(taken, key=lambda head: taken[head])
    dear = sorted(given, key=lambda head: -given[head])
    pairs: list[tuple[Head, Head, float]] = []
    used: set[Head] = set()
    for to in dear:
        source = next((head for head in cheap if head not in used and head != to), None)
        if to in used or source is None:
            continue
        gain = given[to] - taken[source]
        if gain <= 0:
            break
        pairs.append((source, to, gain))
        used |= {source, to}
    return pairs


def _repeated(cache: PromptCache, count: int) -> PromptCache:
    """A cache whose prompts come `count` times, one time after the other."""

    def again(value: Tensor) -> Tensor:
        return value[None].expand(count, *value.shape).flatten(0, 1)

    return PromptCache(
        [again(k) for k in cache.k], [again(v) for v in cache.v], again(cache.lengths),
        again(cache.last_hidden), [],
    )  # fmt: skip


@torch.no_grad()
def layer_trials(
    model: Transformer,
    batch: TailBatch,
    base: Tensor,
    trials: dict[int, list[Tensor]],
    reading: Reading,
    loss: str = "logits",
) -> tuple[float, dict[int, list[float]]]:
    """The loss of the mask `base`, and of masks that differ from it in one layer, by that layer.

    Rows below that layer are the same for all: a trial begins there, and those of a layer are read
    side by side."""
    teacher, reference = reference_pass(model, batch)
    count, rows = batch.tail.shape

    def hidden_from(x: Tensor, first: int, masks: Tensor, inputs: list[Tensor]) -> Tensor:
        """Last hidden states of x, the rows of each of `masks` (n, layers, KV, D), from a layer."""
        times = masks.shape[0]
        wide = masks.transpose(0, 1).repeat_interleave(count, 1)  # (layers, n * B, KV, D)
        own = replace(reading, factors=wide, alive=wide.sum(-1) > 0)
        reader = TailReader(_repeated(teacher.cache, times) if times > 1 else teacher.cache, own)
        positions = reader.cache.lengths[:, None] + torch.arange(rows, device=x.device)
        reader.begin_rows(positions, batch.zone_positions.repeat(times, 1))
        cos, sin = (table[:, None] for table in rope_table(model.config, positions))
        x = x.repeat(times, 1, 1)
        for layer in range(first, model.config.layers):
            inputs.append(x)
            x = model.blk[layer](x, cos, sin, partial(reader, layer))
        return model.output_norm(x)

    def losses(hidden: Tensor) -> list[float]:
        return [
            float(distance(model, one, reference, batch.weights, loss))
            for one in hidden.split(count)
        ]

    inputs: list[Tensor] = []
    own = losses(hidden_from(model.token_embd(batch.tail), 0, base[None], inputs))[0]
    found = {
        layer: losses(hidden_from(inputs[layer], layer, torch.stack(masks), []))
        for layer, masks in trials.items()
        if masks
    }
    return own, found


def exchange_blocks(
    model: Transformer,
    batches: Iterator[TailBatch],
    held: list[TailBatch],
    values: Tensor,
    mask: Tensor,
    config: ExchangeConfig,
    log: Callable[[dict[str, object]], None] = lambda _: None,
) -> Tensor:
    """A mask (layers, kv_heads, head_dim) of as many channels as `mask`, whose loss over `held` is
    at most its own. `values` order the channels of a head, those of `mask` before all others."""
    began = time.monotonic()
    ranked = untied(values) + 2 * (mask - 1)
    widths = mask.sum(-1).long()
    heads = [(layer, head) for layer in range(widths.shape[0]) for head in range(widths.shape[1])]
    trials = _Trials()

    def changed(*changes: tuple[Head, int]) -> Tensor:
        found = widths.clone()
        for head, blocks in changes:
            found[head] += config.align * blocks
        return found

    def losses(candidates: list[Tensor], measured: list[TailBatch]) -> list[float]:
        readings = [mask_reading(top_channels(ranked, one), config.reading) for one in candidates]
        return measure(model, measured, readings, config.loss)

    best = losses([widths], held)[0]
    log({"stage": 3, "round": 0, config.loss: round(best, 6)})
    for turn in range(config.rounds):
        elapsed = time.monotonic() - began
        if elapsed * (turn + 1) / max(1, turn) > config.seconds:
            break
        less = [head for head in heads if widths[head] >= config.align]
        more = [head for head in heads if widths[head] + config.align <= values.shape[-1]]
        tried = sorted([*((head, -1) for head in less), *((head, 1) for head in more)])
        by_layer: dict[int, list[Tensor]] = defaultdict(list)
        for head, blocks in tried:
            by_layer[head[0]].append(top_channels(ranked, changed((head, blocks))))
        for _ in range(config.batches):
            batch = next(batches).to(ranked.device)
            base = top_channels(ranked, widths)
            own, found = layer_trials(model, batch, base, by_layer, config.reading, config.loss)
            losses_in_order = (one for layer in sorted(found) for one in found[layer])
            for (head, blocks), one in zip(tried, losses_in_order, strict=True):
                # Of a block: what its loss costs, or what it brings.
                block = int(widths[head]) + (config.align if blocks > 0 else 0)
                trials.add(head, block, (own - one) * blocks)
        pairs = pairs_of(
            {head: trials.worth(head, int(widths[head])) for head in less},
            {head: trials.worth(head, int(widths[head]) + config.align) for head in more},
        )
        counts = sorted({max(1, len(pairs) // part) for part in (1, 2, 4, 8)} if pairs else ())
        moved = [
            changed(*((source, -1) for source, _, _ in pairs[:count]),
                    *((to, 1) for _, to, _ in pairs[:count]))
            for count in counts
        ]  # fmt: skip
        costs = losses(moved, held)
        took = 0
        if costs and min(costs) < best:
            best = min(costs)
            took = counts[costs.index(best)]
            widths = moved[costs.index(best)]
        log({
            "stage": 3, "round": turn + 1, "pairs": len(pairs), "taken": took,
            config.loss: round(best, 6),
        })  # fmt: skip
    return top_channels(ranked, widths).to(mask.dtype)
