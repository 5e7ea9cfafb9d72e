"""Methods by name: what they keep, and that the engine's evaluation means the same by them."""

import pytest
import torch
from conftest import ROOT, tiny_model
from test_cache import batch

from leanedge_train.cache import Reading, TailReader, prefill, tail_pass
from leanedge_train.config import EMBEDDED
from leanedge_train.leank import LeankConfig, learn_gates
from leanedge_train.masks import even_width
from leanedge_train.methods import Scores, parse_method, read_scores
from leanedge_train.plan import CachePlan, kept_of, read_plan
from leanedge_train.results import sample_hash
from leanedge_train.tasks_file import EvalTask

SHAPE = (EMBEDDED.layers, EMBEDDED.kv_heads, EMBEDDED.head_dim)
FACTORS = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))
GATES = torch.rand(SHAPE[:2], generator=torch.Generator().manual_seed(2))
SCORES = Scores(FACTORS, FACTORS.flip(0), GATES)


def test_names_have_the_fingerprints_that_the_engines_evaluation_computes() -> None:
    names = ("full", "low-70", "sink+k4+v4", "low-50+quest-16")
    found = [parse_method(name, EMBEDDED, Scores()).plan.fingerprint()[:8] for name in names]
    assert found == ["621bc162", "6456b2b1", "c0d9993c", "6a8d78bc"]  # src/eval/methods.test.ts
    text = EvalTask("perplexity", 8, [1, 2, 3, 4, 5, 6, 7, 8], [], "loss", 0, 3)
    assert sample_hash(text) == "f5826e82ad6fdc89"  # src/eval/samples-file.test.ts


def test_the_evaluations_plans_are_those_of_its_masks() -> None:
    folder = ROOT / "docs" / "evaluation"
    scores = read_scores(folder / "masks" / "leanedge-29m.json")
    read = [read_plan(path) for path in sorted((folder / "plans").glob("leanedge-29m.*.json"))]
    # Those of learn_plan have channels of whichever L1 weight was best.
    made = [plan for plan in read if not plan.source.startswith("LeanK, ")]
    assert len(made) == 19
    for plan in made:
        found = parse_method(plan.name, EMBEDDED, scores).plan
        assert found.fingerprint() == plan.fingerprint(), plan.name


def test_each_method_keeps_its_share() -> None:
    for name, kept in (
        ("leank-70", 0.3), ("leank-even-50", 0.5), ("duo-75", 0.25), ("heads-75", 0.25),
        ("magnitude-90", 0.1), ("magnitude-even-95", 0.25), ("random-60", 0.4), ("sink", 0),
        ("k4+v2", 1), ("think-50", 0.5), ("low-50", 0.5),
    ):  # fmt: skip
        plan = parse_method(name, EMBEDDED, SCORES).plan
        assert plan.kept_fraction == pytest.approx(kept, abs=0.006), name
    assert [even_width(64, share) for share in (0.0, 0.3, 0.5, 0.8, 0.95)] == [64, 48, 32, 16, 16]


def test_parts_keep_what_all_of_them_keep() -> None:
    learned, heads, both = (
        parse_method(name, EMBEDDED, SCORES) for name in ("leank-70", "duo-50", "leank-70+duo-50")
    )
    assert torch.equal(both.plan.mask(), learned.plan.mask() * heads.plan.mask())
    assert both.plan.source == f"{learned.plan.source}; {heads.plan.source}"
    assert (heads.plan.mask().mean(-1) == (GATES >= GATES.flatten().median() + 1e-6)).all()


def test_a_plan_that_was_read_comes_before_what_would_be_computed() -> None:
    plan = CachePlan(kept_of(torch.ones(SHAPE)), 64, recent=200, source="a file", name="leank-70")
    method = parse_method("leank-70+k4", EMBEDDED, Scores(plans={"leank-70": plan}))
    assert method.plan.kept_fraction == 1 and method.reading.recent == 200
    assert method.plan.source == "a file" and method.plan.storage_k == "int4"


def test_what_is_missing_is_named() -> None:
    for name, message in (
        ("duo-50", "learned gates"), ("leank-50", "learned factors"), ("full+k3", "no known"),
        ("magnitude-50", "calibrated"), ("think-50+sink", "no other choice"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            parse_method(name, EMBEDDED, Scores())


def test_an_open_gate_reads_everything_and_a_closed_one_sink_and_recent() -> None:
    model, made = tiny_model(), batch()
    cache = prefill(model, made.ids, made.lengths)
    plain = Reading(sink=4, recent=40)

    def read(**more: torch.Tensor) -> torch.Tensor:
        reader = TailReader(cache, Reading(sink=4, recent=40, **more))
        return tail_pass(model, reader, made.tail, made.zone_positions)

    whole = tail_pass(model, TailReader(cache, plain), made.tail, made.zone_positions)
    streaming = read(alive=torch.zeros(2, 1, 2, dtype=torch.bool))
    assert float((read(gates=torch.ones(2, 1, 2)) - whole).abs().max()) < 1e-5
    assert float((read(gates=torch.zeros(2, 1, 2)) - streaming).abs().max()) < 1e-5
    half = read(gates=torch.full((2, 1, 2), 0.5))
    assert float((half - whole).abs().max()) > 1e-3 < float((half - streaming).abs().max())


def test_gates_close_where_nothing_reads_far() -> None:
    model = tiny_model()
    # The second KV head of the first layer reads nothing anywhere: its values do not arrive.
    model.blk[0].attn_v.weight.data[32:] = 0

    def batches():
        while True:
            yield batch()

    config = LeankConfig(l1=(0.05,), steps=12, learning_rate=0.1, reading=Reading(4, 40))
    gates = learn_gates(model, batches(), config)[0]
    assert gates.shape == (2, 2)
    assert float(gates[0, 1]) == float(gates.min()) < 0.5
