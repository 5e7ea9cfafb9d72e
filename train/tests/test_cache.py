"""Zones, masks and page selection of the reference; it is a dense pass where it must be."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_model
from torch.overrides import TorchFunctionMode

from leanedge_train import model as model_module
from leanedge_train.cache import (
    ArchiveRows,
    Reading,
    TailReader,
    archive_border,
    prefill,
    select_pages,
    tail_pass,
)
from leanedge_train.leank import TailBatch, reference_pass


def batch(lengths: tuple[int, ...] = (290, 250), rows: int = 10) -> TailBatch:
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(10, 8000, (len(lengths), max(lengths)), generator=generator)
    tail = torch.randint(10, 8000, (len(lengths), rows), generator=generator)
    sizes = torch.tensor(lengths)
    zones = sizes[:, None] + torch.arange(rows)
    return TailBatch(ids, sizes, tail, zones, torch.ones(len(lengths), rows))


def test_rows_behind_prompts_of_any_length_are_a_dense_pass_over_everything() -> None:
    model, made = tiny_model(), batch()
    _, hidden = reference_pass(model, made)
    for row, length in enumerate(made.lengths.tolist()):
        whole = torch.cat((made.ids[row, :length], made.tail[row]))[None]
        expected = model(whole)[0, length:]
        assert float((hidden[row] - expected).abs().max()) < 1e-4


def test_a_tail_in_pieces_is_the_tail_at_once() -> None:
    model, made = tiny_model(), batch()
    cache = prefill(model, made.ids, made.lengths)
    reading = Reading(sink=4, recent=40, storage_k="int4", storage_v="int2")
    at_once = tail_pass(model, TailReader(cache, reading), made.tail, made.zone_positions)
    reader = TailReader(cache, reading)
    pieces = [
        tail_pass(model, reader, made.tail[:, i : i + 3], made.zone_positions[:, i : i + 3])
        for i in range(0, 10, 3)
    ]
    assert float((torch.cat(pieces, 1) - at_once).abs().max()) < 1e-4


class Largest(TorchFunctionMode):
    """Remembers how many elements the largest tensor has that anything computes."""

    elements = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.elements = max(self.elements, made.numel())
        return made


def test_no_attention_matrix_is_larger_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    model, made = tiny_model(), batch((600,))

    def learned() -> tuple[torch.Tensor, torch.Tensor, int]:
        factors = torch.full((2, 1, 2, 32), 0.5, requires_grad=True)
        with Largest() as largest:
            teacher, reference = reference_pass(model, made)
            reader = TailReader(teacher.cache, Reading(sink=4, recent=40, factors=factors))
            hidden = tail_pass(model, reader, made.tail, made.zone_positions)
            (hidden - reference).square().sum().backward()
        return hidden.detach(), factors.grad, largest.elements

    at_once, gradient, _ = learned()
    bound = 5 * 4 * 610  # scores of five rows of four heads
    monkeypatch.setattr(model_module, "SCORES_AT_ONCE_MAX", bound)
    hidden, again, elements = learned()
    assert elements <= max(bound, 600 * 4 * 32)  # all queries of the prompt
    assert float((hidden - at_once).abs().max()) < 1e-5
    assert float((again - gradient).abs().max()) < 1e-5 * float(gradient.abs().max())


def test_borders_are_those_of_the_page_format() -> None:
    # docs/page-format.md, 1: pages = max(0, floor((n - sink - recent) / 32)).
    lengths = torch.tensor([0, 127, 128, 159, 160, 191, 192, 1000])
    expected = torch.tensor([16, 16, 16, 16, 48, 48, 80, 16 + 32 * 27])
    assert torch.equal(archive_border(lengths, 16, 112), expected)


def test_a_kept_channel_counts_and_a_pruned_one_does_not() -> None:
    model, made = tiny_model(), batch()
    cache = prefill(model, made.ids, made.lengths)
    base = Reading(sink=4, recent=40)

    def hidden(factors: torch.Tensor) -> torch.Tensor:
        reading = replace(base, factors=factors[:, None])
        return tail_pass(model, TailReader(cache, reading), made.tail, made.zone_positions)

    ones = torch.ones(2, 2, 32)
    _, dense = reference_pass(model, made)
    assert float((hidden(ones) - dense).abs().max()) < 2e-2  # the archive is f16
    without = ones.clone()
    without[1, 0, 5] = 0
    assert float((hidden(without) - hidden(ones)).abs().max()) > 1e-3


def test_a_head_of_width_0_sees_sink_and_recent_only() -> None:
    model, made = tiny_model(), batch((290,))
    cache = prefill(model, made.ids, made.lengths)
    none = torch.zeros(2, 1, 2, 32)
    reading = Reading(sink=4, recent=40, factors=none, alive=torch.zeros(2, 1, 2, dtype=torch.bool))
    before = tail_pass(model, TailReader(cache, reading), made.tail, made.zone_positions)
    border = int(archive_border(made.zone_positions, 4, 40).min())
    for k, v in zip(cache.k, cache.v, strict=True):
        k[:, :, 4:border] = 1e3
        v[:, :, 4:border] = 1e3
    after = tail_pass(model, TailReader(cache, reading), made.tail, made.zone_positions)
    assert torch.equal(before, after)


def test_selection_takes_the_newest_page_and_the_best_and_older_ones_at_ties() -> None:
    q = torch.ones(1, 1, 1, 2, 4)
    bound = torch.tensor([3.0, 5.0, 5.0, 1.0, 9.0])[None, None, :, None].expand(1, 1, 5, 4)
    rows = ArchiveRows(q, q, bound, bound)
    pages = torch.tensor([[4, 5]])
    chosen = select_pages(q, rows, torch.ones(1, 1, 4), pages, budget=2, floor=2)[0, 0]
    assert chosen[0].tolist() == [False, True, False, True, False]
    assert chosen[1].tolist() == [False, True, False, False, True]
    whole = select_pages(q, rows, torch.ones(1, 1, 4), pages, budget=2, floor=4)[0, 0]
    assert whole[0, :4].all()
