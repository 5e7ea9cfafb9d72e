"""Stage 1 finds what matters, stage 2 keeps it, and masks meet their budget."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from conftest import tiny_model

from leanedge_train.cache import Reading
from leanedge_train.compare_factors import compare, ranks
from leanedge_train.exchange import ExchangeConfig, exchange_blocks, layer_trials, pairs_of
from leanedge_train.leank import (
    LeankConfig,
    TailBatch,
    distance,
    learn_factors,
    mask_reading,
    measure,
    rate_at,
    read_with,
    reference_pass,
    refine_factors,
)
from leanedge_train.masks import (
    block_mask,
    candidates_for,
    even_mask,
    fewest_bytes_read,
    head_mask,
    untied,
    with_page_budgets,
)
from leanedge_train.model import Transformer

READING = Reading(sink=4, recent=24)
PLANTED = (3, 4, 5, 6, 7, 8, 9, 10)


def planted_model() -> Transformer:
    """A model that uses a few channels of each head only: the others' queries are tiny."""
    model = tiny_model(rope_base=1e6)
    used = torch.zeros(32)
    used[list(PLANTED)] = 1
    used[[channel + 16 for channel in PLANTED]] = 1  # their partners in rotation
    for block in model.blk:
        rows = block.attn_q.weight.data.unflatten(0, (4, 32))
        rows *= torch.where(used > 0, 2.0, 0.02)[None, :, None]
    return model


def batches(seed: int) -> Iterator[TailBatch]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        ids = torch.randint(10, 8000, (2, 160), generator=generator)
        tail = torch.randint(10, 8000, (2, 8), generator=generator)
        zones = 160 + torch.arange(8).expand(2, 8)
        yield TailBatch(ids, torch.tensor([160, 160]), tail, zones, torch.ones(2, 8))


def test_stage_1_recovers_planted_channels_and_stage_2_keeps_them() -> None:
    model = planted_model()
    lines: list[dict[str, object]] = []
    config = LeankConfig(l1=(0.0, 0.3), steps=30, learning_rate=0.08, reading=READING, log_every=29)
    free, factors = learn_factors(model, batches(1), config, log=lines.append)
    used = torch.zeros(32, dtype=torch.bool)
    used[list(PLANTED)] = True
    used[[channel + 16 for channel in PLANTED]] = True
    assert float(factors[..., used].mean()) > 2 * float(factors[..., ~used].mean())
    assert float(free.mean()) > float(factors.mean())
    assert lines[-1]["mean_factor"][1] < 0.9  # type: ignore[index]
    mask = block_mask(factors, 0.5)
    random = block_mask(torch.rand(2, 2, 32, generator=torch.Generator().manual_seed(1)), 0.5)
    held = [next(batches(2)) for _ in range(2)]
    ours, theirs = measure(model, held, [mask_reading(m, READING) for m in (mask, random)])
    assert ours < 0.6 * theirs
    refined = refine_factors(
        model, batches(3), factors, LeankConfig(steps=3, reading=READING, pruned=0.5)
    )
    assert float(refined.mean()) == 0.5
    assert set(refined.sum(-1).flatten().tolist()) <= {0.0, 16.0, 32.0}


def test_pages_can_be_quantised_while_learning() -> None:
    config = LeankConfig(
        l1=(0.1,), steps=2, reading=Reading(sink=4, recent=24, storage_k="int4", storage_v="int2")
    )
    factors = learn_factors(tiny_model(), batches(1), config)
    assert float(factors.max()) <= 1 and float(factors.min()) >= 0


def test_the_rate_warms_up_and_decays_to_a_floor() -> None:
    rates = [rate_at((step + 1) / 100, 1.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[50] == 1.0 and rates[-1] == pytest.approx(0.1)
    assert max(rates) == 1.0


def test_distance_of_logits_is_the_divergence_of_what_comes_next() -> None:
    model, batch = tiny_model(), next(batches(1))
    teacher, reference = reference_pass(model, batch)
    reading = mask_reading(block_mask(torch.rand(2, 2, 32), 0.5), READING)
    with torch.no_grad():
        hidden = read_with(model, teacher, batch, reading)
        weights = batch.weights.clone()
        weights[0, 3:] = 0
        ours, theirs = (model.logits(rows).log_softmax(-1) for rows in (hidden, reference))
        rows = torch.nn.functional.kl_div(ours, theirs, log_target=True, reduction="none").sum(-1)
        wanted = float((rows * weights).sum() / weights.sum())
        assert float(distance(model, hidden, reference, weights, "logits")) == pytest.approx(
            wanted, rel=1e-3
        )
        assert float(distance(model, reference, reference, weights, "logits")) < 1e-6
    assert wanted > 1e-4


def test_a_stage_ends_when_its_seconds_are_over() -> None:
    lines: list[dict[str, object]] = []
    config = LeankConfig(l1=(0.1,), steps=10_000, seconds=0.5, loss="logits", reading=READING)
    learn_factors(tiny_model(), batches(1), config, log=lines.append)
    assert 1 <= int(str(lines[-1]["step"])) < 500


def test_blocks_change_places_until_what_counts_is_kept() -> None:
    # A mask that keeps what the model does not use: the second layer's heads do all of the work.
    model = planted_model()
    model.blk[0].attn_output.weight.data *= 0.01
    held = [next(batches(2)) for _ in range(2)]
    mask = torch.zeros(2, 2, 32)
    mask[0] = 1
    values = torch.rand(2, 2, 32, generator=torch.Generator().manual_seed(1))
    lines: list[dict[str, object]] = []
    config = ExchangeConfig(reading=READING, rounds=4)
    found = exchange_blocks(model, batches(3), held, values, mask, config, log=lines.append)
    assert float(found.sum()) == float(mask.sum())
    assert float(found[1].sum()) == 64 and float(found[0].sum()) == 0
    before, after = measure(model, held, [mask_reading(m, READING) for m in (mask, found)])
    assert after < 0.5 * before
    losses = [line["logits"] for line in lines]
    assert losses == sorted(losses, reverse=True) and lines[0]["round"] == 0  # type: ignore[type-var]


def test_trials_of_a_layer_cost_what_their_masks_do() -> None:
    model, batch = tiny_model(), next(batches(4))
    base = block_mask(torch.rand(2, 2, 32, generator=torch.Generator().manual_seed(5)), 0.5)
    trials: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    for layer, head in ((0, 0), (1, 0), (1, 1)):
        mask = base.clone()
        mask[layer, head] = 1 - mask[layer, head]
        trials[layer].append(mask)
    own, found = layer_trials(model, batch, base, trials, READING)
    masks = [base, *trials[0], *trials[1]]
    wanted = measure(model, [batch], [mask_reading(mask, READING) for mask in masks], "logits")
    assert [own, *found[0], *found[1]] == pytest.approx(wanted, rel=1e-3)
    assert len({round(loss, 6) for loss in wanted}) == 4


def test_pairs_are_made_while_they_gain_and_of_different_heads() -> None:
    taken = {(0, 0): 0.1, (0, 1): 0.2, (1, 0): 0.9, (1, 1): 0.8}
    given = {(0, 0): 0.05, (0, 1): 0.15, (1, 0): 0.7, (1, 1): 0.1}
    pairs = pairs_of(taken, given)
    assert [pair[:2] for pair in pairs] == [((0, 0), (1, 0))]
    assert pairs[0][2] == pytest.approx(0.6)
    assert pairs_of({}, given) == [] and pairs_of(taken, {}) == []


def test_equal_values_are_cut_where_the_share_says() -> None:
    values = torch.zeros(4, 4, 64)
    values[0] = 1.0
    # 75 % of all factors are exactly 0: which of them stay is fixed.
    assert float(block_mask(values, 0.5).mean()) == 0.5
    assert torch.equal(untied(values), untied(values))


def test_blocks_compete_over_the_model_and_meet_the_share() -> None:
    values = torch.rand(4, 2, 64, generator=torch.Generator().manual_seed(3))
    values[3] += 1
    mask = block_mask(values, 0.75)
    assert float(mask.mean()) == 0.25 and mask[3].all() and not mask[:3].any()
    for layer, head in ((3, 0), (3, 1)):
        assert mask[layer, head].sum() == 64
    assert even_mask(values, 0.75).sum(-1).flatten().tolist() == [16.0] * 8
    assert head_mask(values, 2)[3].all() and head_mask(values, 2).sum() == 128


def test_candidates_meet_a_byte_target() -> None:
    values = torch.rand(4, 2, 64, generator=torch.Generator().manual_seed(4))
    found = candidates_for(values, 400)
    assert len({(c.plan.storage_k, c.plan.storage_v) for c in found}) > 3
    assert all(340 <= c.bytes_per_token <= 400 for c in found)
    assert all(c.plan.archive_bytes_per_token() == c.bytes_per_token for c in found)
    coarse = candidates_for(values, 400, align=32)
    widths = {len(kept) for c in coarse for heads in c.plan.kept for kept in heads}
    assert coarse and widths <= {0, 32, 64}


def test_page_budgets_are_tried_with_the_best_plans_of_a_target() -> None:
    values = torch.rand(4, 2, 64, generator=torch.Generator().manual_seed(4))
    plans = [candidate.plan for candidate in candidates_for(values, 400)]
    costs = [1.2] * len(plans)
    costs[2], costs[5] = 1.0, 1.04
    limited = with_page_budgets(plans, costs, 400)
    assert {plan.kept for plan in limited} == {plans[2].kept, plans[5].kept}
    assert [plan.pages_per_step for plan in limited] == [8, 16, 32, 64] * 2
    assert all(plan.pages_floor == plan.pages_per_step for plan in limited)
    # 8 pages of the best cost too much; of the other they read less than 16 of the best would.
    found = fewest_bytes_read(limited, [1.5, 1.0, 1.0, 1.0, 1.05, 1.0, 1.0, 1.0], 1.0)
    assert found == limited[4]
    assert fewest_bytes_read(limited, [1.06] * 8, 1.0) is None
    # Pages in f16 need bounds beside them, and the target has no room for these.
    f16 = replace(plans[0], storage_k="f16", storage_v="f16")
    assert with_page_budgets([f16], [1.0], f16.archive_bytes_per_token()) == []


def test_factors_of_two_tasks_are_compared_by_value_rank_and_mask() -> None:
    values = torch.rand(4, 2, 64, generator=torch.Generator().manual_seed(5)).round(decimals=1)
    same = compare(values, values)
    assert same["pearson"] == same["spearman"] == 1.0
    assert set(same["kept_in_both"].values()) == {1.0}  # type: ignore[attr-defined]
    assert compare(values, 1 - values)["spearman"] == -1.0
    assert ranks(torch.tensor([3.0, 1.0, 1.0, 2.0])).tolist() == [3.0, 0.5, 0.5, 2.0]
