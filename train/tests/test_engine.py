"""Files that the package writes, in leanedge's own engine: logits, answers, plans, tokens."""

from pathlib import Path

import pytest
import torch
from conftest import ask_engine, needs_engine, tiny_file, tiny_model

from leanedge_train.cache import prefill
from leanedge_train.gguf_file import read_gguf, write_gguf
from leanedge_train.masks import block_mask
from leanedge_train.methods import Scores, parse_method
from leanedge_train.plan import CachePlan, identity_plan, kept_of
from leanedge_train.reference_eval import answer
from leanedge_train.tokenizer import END, tokenizer_of
from leanedge_train.weights import as_stored

TEXT = "Ada's locker code is 48271930, \"noted\"?\n\n\tIt's 12:30 -- café! 7 07 007  x"

# RMS difference over the deviation of the logits. The engine multiplies quantised weights with
# activations rounded to 8 bits (half a percent of a block's largest), f16 exactly.
LOGIT_ERRORS = {"f16": 0.004, "q8_0": 0.08, "q4_0": 0.08}


@needs_engine()
@pytest.mark.parametrize(
    ("architecture", "storage"),
    [("llama", "f16"), ("llama", "q8_0"), ("llama", "q4_0"), ("qwen2", "f16"), ("qwen3", "f16")],
)
def test_the_engine_computes_the_same_logits(
    tmp_path: Path, architecture: str, storage: str
) -> None:
    model = tiny_model(architecture=architecture)
    path = tmp_path / "tiny.gguf"
    write_gguf(path, model, tiny_file(model), storage)
    again, file = read_gguf(path)
    for name, rows in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], as_stored(name, rows, storage)), name
    assert file.vocabulary == tiny_file(model).vocabulary
    prompt = torch.randint(300, 8000, (1, 150), generator=torch.Generator().manual_seed(2))
    found = ask_engine(model=str(path), prompt=prompt[0].tolist(), text=TEXT)
    logits = again.logits(again(prompt))[0, -1]
    difference = torch.tensor(found["answers"][0]["logits"][0]) - logits
    error = difference.square().mean().sqrt() / logits.std()
    print(f"{architecture} {storage}: {float(error):.5f}")
    assert float(error) < LOGIT_ERRORS[storage]
    assert found["ids"] == tokenizer_of(file.vocabulary).encode(TEXT).ids


@needs_engine()
def test_the_engine_reads_the_archive_as_the_reference_does(tmp_path: Path) -> None:
    model = tiny_model()
    path = tmp_path / "tiny.gguf"
    write_gguf(path, model, tiny_file(model), "f16")
    model = read_gguf(path)[0]
    factors = torch.rand(2, 2, 32, generator=torch.Generator().manual_seed(3))
    factors[1, 0] *= 0.01  # a head of width 0
    names = []
    for index, rest in enumerate((
        {"storage_k": "f16", "storage_v": "f16"},
        {"storage_k": "int8", "storage_v": "int4"},
        {"storage_k": "int4", "storage_v": "int2", "pages_per_step": 2, "pages_floor": 2},
    )):  # fmt: skip
        plan = CachePlan(
            kept_of(block_mask(factors, 0.5)), 32, sink=4, recent=40, name=f"p{index}",
            model="tiny", **rest,  # type: ignore[arg-type]
        )  # fmt: skip
        names.append(str(tmp_path / f"p{index}.json"))
        plan.write(Path(names[-1]))
        assert any(len(channels) == 0 for heads in plan.kept for channels in heads)
    prompt = torch.randint(300, 8000, (1, 203), generator=torch.Generator().manual_seed(4))
    found = ask_engine(model=str(path), plans=names, prompt=prompt[0].tolist(), answerTokens=24)
    cache = prefill(model, prompt, torch.tensor([203]), 32)
    for index, name in enumerate(names):
        method = parse_method(name, model.config, Scores())
        assert method.plan is not None
        expected = found["plans"][index + 1]
        assert expected["pageBytes"] == method.plan.page_bytes()
        assert expected["fingerprint"] == method.plan.fingerprint()
        said = answer(model, cache, method.reading_for(cache), END, 24, dense=False)[0]
        theirs = found["answers"][index + 1]["tokens"]
        # Random models are near ties somewhere; up to there the answers are the same.
        same = next((i for i, (a, b) in enumerate(zip(said, theirs, strict=False)) if a != b), 24)
        assert same >= 12, f"plan {index}: the same {same} of 24 tokens"


@needs_engine()
def test_the_identity_plan_has_the_engines_fingerprint(tmp_path: Path) -> None:
    model = tiny_model()
    path = tmp_path / "tiny.gguf"
    write_gguf(path, model, tiny_file(model), "q8_0")
    found = ask_engine(model=str(path))
    assert found["plans"][0]["fingerprint"] == identity_plan(2, 2, 32).fingerprint()
