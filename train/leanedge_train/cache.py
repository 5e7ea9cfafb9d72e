"""The KV cache of a batch, read through the zones of a plan exactly as the engine reads it.

A batch is prompts of any lengths, read densely once (`prefill`), and a tail of rows behind each:
an answer, or the next question and its answer. Tail rows read the archive as the plan stores it.
The prompt's pass does not depend on the plan, so one prompt cache serves every plan and every
learned factor; and no full attention matrix ever exists.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .model import Transformer, causal_attention, in_pieces
from .pages import PAGE_SLOTS, page_bounds, stored_k, stored_v

NOWHERE = 1 << 30  # position of a padding slot: after every row


@dataclass
class PromptCache:
    """K and V of a batch of prompts after RoPE: per layer (B, KV, P, D)."""

    k: list[Tensor]
    v: list[Tensor]
    lengths: Tensor  # (B), tokens of each prompt; slots beyond are padding
    last_hidden: Tensor  # (B, dim), of each prompt's last row
    queries: list[Tensor]  # per layer (B, H, W, D): the last rows' queries, if asked for


def exact_enough() -> None:
    """Lets a GPU multiply f32 matrices in TF32: queries, keys and pages have 11 bits at most."""
    torch.set_float32_matmul_precision("high")


def prefill(model: Transformer, ids: Tensor, lengths: Tensor, query_rows: int = 0) -> PromptCache:
    """Reads prompts ids (B, P), padded at the end, densely; keeps the last `query_rows` queries."""
    keys: list[Tensor] = []
    values: list[Tensor] = []
    queries: list[Tensor] = []
    last = torch.arange(query_rows, device=ids.device) - query_rows + lengths[:, None]  # (B, W)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys.append(k)
        values.append(v)
        if query_rows > 0:
            rows = last.clamp(min=0)[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3])
            queries.append(q.gather(2, rows))
        return causal_attention(q, k, v)

    with torch.no_grad():
        hidden = model(ids, attend=attend)
    row = torch.arange(ids.shape[0], device=ids.device)
    return PromptCache(keys, values, lengths, hidden[row, lengths - 1], queries)


def archive_border(zone_positions: Tensor, sink: int, recent: int) -> Tensor:
    """First slot behind the archive for rows whose zones are those of a sequence of n tokens."""
    pages = torch.div(zone_positions - sink - recent, PAGE_SLOTS, rounding_mode="floor")
    return sink + PAGE_SLOTS * pages.clamp(min=0)


@dataclass
class ArchiveRows:
    """One layer's prompt rows as pages give them back. `k` and `v` (B, KV, P, D), f32."""

    k: Tensor
    v: Tensor
    low: Tensor | None = None  # (B, KV, pages, D), for page selection
    high: Tensor | None = None


def archive_rows(
    k: Tensor, v: Tensor, sink: int, storage_k: str, storage_v: str, bounds: bool = False
) -> ArchiveRows:
    """Stores every whole page of k, v (B, KV, P, D); rows outside of pages stay as they are."""
    end = sink + max(0, k.shape[2] - sink) // PAGE_SLOTS * PAGE_SLOTS
    if end <= sink:
        return ArchiveRows(k.float(), v.float())
    whole_k, whole_v = k.half().float(), v.half().float()
    pages_k, pages_v = whole_k[:, :, sink:end], whole_v[:, :, sink:end]
    low, high = page_bounds(pages_k, storage_k) if bounds else (None, None)
    return ArchiveRows(
        torch.cat((whole_k[:, :, :sink], stored_k(pages_k, storage_k), whole_k[:, :, end:]), 2),
        torch.cat((whole_v[:, :, :sink], stored_v(pages_v, storage_v), whole_v[:, :, end:]), 2),
        low,
        high,
    )


@dataclass(frozen=True)
class Reading:
    """How tail rows read the archive."""

    sink: int = 16
    recent: int = 112
    storage_k: str = "f16"
    storage_v: str = "f16"
    pages_per_step: int = 0
    pages_floor: int = 0
    # (layers, 1 or B, KV, D): multiplies the archive's K channels: learned factors, or 0 and 1.
    factors: Tensor | None = None
    # (layers, 1 or B, KV) bool: heads that read an archive at all; None: all.
    alive: Tensor | None = None
    # (layers, 1 or B, KV) in [0, 1]: how much of a head's output reads the archive at all; the rest
    # is what sink and recent alone give (DuoAttention, while its gates are learned).
    gates: Tensor | None = None


def select_pages(
    q: Tensor, rows: ArchiveRows, factors: Tensor, pages: Tensor, budget: int, floor: int
) -> Tensor:
    """Quest: which pages each row reads. q (B, KV, G, A, D), pages (B, A) -> (B, KV, A, pages)."""
    assert rows.low is not None and rows.high is not None
    wide = q.float() * factors[:, :, None, None]  # (B, KV, G, A, D)
    upper = wide.clamp(min=0) @ rows.high.transpose(-1, -2)[:, :, None]
    lower = wide.clamp(max=0) @ rows.low.transpose(-1, -2)[:, :, None]
    bound = (upper + lower).amax(2)  # (B, KV, A, pages)
    count = bound.shape[-1]
    index = torch.arange(count, device=q.device)
    own = pages[:, None, :, None]  # pages that the row's archive has
    bound = bound.masked_fill(index >= own, -math.inf)
    bound = bound.masked_fill(index == own - 1, math.inf)  # the newest is always read
    order = bound.sort(stable=True, dim=-1, descending=True).indices  # ties go to the older page
    rank = torch.empty_like(order).scatter_(-1, order, index.expand_as(order).contiguous())
    return (rank < budget) | (own <= floor)


@dataclass
class TailReader:
    """The Attend of tail rows: keeps their K and V, reads the prompt through the zones.

    At most `recent` tail rows: none of them can then enter the archive.
    """

    cache: PromptCache
    reading: Reading
    dense: bool = False  # read everything in full: the teacher
    positions: Tensor = field(default_factory=lambda: torch.empty(0))  # (B, A) of the rows at hand
    zone_positions: Tensor = field(default_factory=lambda: torch.empty(0))  # (B, A)
    tail_positions: Tensor | None = None  # (B, all tail rows so far)
    archive: dict[int, ArchiveRows] = field(default_factory=dict)
    full: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    tail_k: dict[int, Tensor] = field(default_factory=dict)
    tail_v: dict[int, Tensor] = field(default_factory=dict)

    def begin_rows(self, positions: Tensor, zone_positions: Tensor) -> None:
        """Announces the rows of the next pass: positions, and the length that their zones have."""
        self.positions, self.zone_positions = positions, zone_positions
        before = self.tail_positions
        self.tail_positions = positions if before is None else torch.cat((before, positions), 1)
        if self.tail_positions.shape[1] > self.reading.recent and not self.dense:
            raise ValueError(
                f"{self.tail_positions.shape[1]} tail rows, at most {self.reading.recent} (recent)"
            )

    def _archive(self, layer: int) -> ArchiveRows:
        if layer not in self.archive:
            reading = self.reading
            self.archive[layer] = archive_rows(
                self.cache.k[layer], self.cache.v[layer], reading.sink, reading.storage_k,
                reading.storage_v, bounds=reading.pages_per_step > 0,
            )  # fmt: skip
        return self.archive[layer]

    def _full(self, layer: int) -> tuple[Tensor, Tensor]:
        """One layer's prompt rows as they were computed, f32: (B, KV, 1, P, D)."""
        if layer not in self.full:
            k, v = self.cache.k[layer], self.cache.v[layer]
            self.full[layer] = (k.float()[:, :, None], v.float()[:, :, None])
        return self.full[layer]

    def _slots(self) -> Tensor:
        """Position of every slot (B, P + tail); padding is nowhere."""
        assert self.tail_positions is not None
        slots = torch.arange(self.cache.k[0].shape[2], device=self.positions.device)
        lengths = self.cache.lengths[:, None]
        prompt = torch.where(slots < lengths, slots, torch.full_like(slots, NOWHERE))
        return torch.cat((prompt, self.tail_positions), 1)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if layer in self.tail_k:
            k = torch.cat((self.tail_k[layer], k), 2)
            v = torch.cat((self.tail_v[layer], v), 2)
        self.tail_k[layer], self.tail_v[layer] = k, v
        batch, heads, rows, _ = q.shape
        slots = self._slots()

        def read(piece: slice) -> Tensor:
            return self._read(layer, q[:, :, piece], k, v, slots, piece)

        scores_of_row = batch * heads * slots.shape[1]
        return in_pieces(read, rows, scores_of_row, again=True).to(v.dtype)

    def _read(
        self, layer: int, q: Tensor, tail_k: Tensor, tail_v: Tensor, slots: Tensor, piece: slice
    ) -> Tensor:
        reading, prompt = self.reading, self.cache.k[layer].shape[2]
        kv_heads = tail_k.shape[1]
        q = q.unflatten(1, (kv_heads, -1)).float() / math.sqrt(q.shape[-1])  # (B, KV, G, A, D)
        full_k, full_v = self._full(layer)  # (B, KV, 1, P, D)
        tail_k, tail_v = tail_k.float()[:, :, None], tail_v.float()[:, :, None]
        own = q @ full_k.transpose(-1, -2)  # (B, KV, G, A, P)
        tail = q @ tail_k.transpose(-1, -2)  # (B, KV, G, A, tail)
        position = self.positions[:, piece, None]  # (B, A, 1)
        future = (slots[:, None] > position)[:, None, None]
        if self.dense:
            probabilities = torch.cat((own, tail), -1).masked_fill(future, -math.inf).softmax(-1)
            read = probabilities[..., :prompt] @ full_v + probabilities[..., prompt:] @ tail_v
            return read.flatten(1, 2)

        rows = self._archive(layer)
        border = archive_border(self.zone_positions[:, piece], reading.sink, reading.recent)
        archived = (slots[:, None] >= reading.sink) & (slots[:, None] < border[..., None])
        archived = archived[:, None, None, :, :prompt]  # (B, 1, 1, A, P)
        factors = q.new_ones(1, kv_heads, q.shape[-1])
        if reading.factors is not None:
            factors = reading.factors[layer]
        pruned = (q * factors[:, :, None, None]) @ rows.k[:, :, None].transpose(-1, -2)
        own = torch.where(archived, pruned, own)
        unread = torch.zeros_like(archived)
        if reading.alive is not None:
            unread = archived & ~reading.alive[layer][:, :, None, None, None]
        if reading.pages_per_step > 0 and rows.low is not None:
            pages = (border - reading.sink) // PAGE_SLOTS
            chosen = select_pages(
                q, rows, factors, pages, reading.pages_per_step, reading.pages_floor
            )
            read_slots = chosen.repeat_interleave(PAGE_SLOTS, -1)  # (B, KV, A, pages * 32)
            rest = prompt - reading.sink - read_slots.shape[-1]
            read_slots = torch.nn.functional.pad(read_slots, (reading.sink, rest), value=True)
            unread = unread | (archived & ~read_slots[:, :, None])

        def mixed(unread: Tensor) -> Tensor:
            scores = torch.cat((own.masked_fill(unread, -math.inf), tail), -1)
            probabilities = scores.masked_fill(future, -math.inf).softmax(-1)
            in_full = probabilities[..., :prompt]
            in_archive = in_full * archived
            read = in_archive @ rows.v[:, :, None] + (in_full - in_archive) @ full_v
            return read + probabilities[..., prompt:] @ tail_v

        read = mixed(unread)
        if reading.gates is not None:
            gate = reading.gates[layer][:, :, None, None, None]
            read = gate * read + (1 - gate) * mixed(archived)
        return read.flatten(1, 2)


def tail_pass(
    model: Transformer, reader: TailReader, ids: Tensor, zone_positions: Tensor
) -> Tensor:
    """Hidden states (B, A, dim) of the next tail rows ids (B, A).

    zone_positions (B, A): tokens of the sequence when the row's zones were fixed: the row's own
    position if it was generated, the start of its segment if it is part of a prompt.
    """
    before = 0 if reader.tail_positions is None else reader.tail_positions.shape[1]
    step = torch.arange(before, before + ids.shape[1], device=ids.device)
    positions = reader.cache.lengths[:, None] + step
    reader.begin_rows(positions, zone_positions)
    return model(ids, positions=positions, attend=reader)
