"""transformers folders, and plans as files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from safetensors.torch import save_file

from leanedge_train.gguf_file import Vocabulary
from leanedge_train.hf_tokenizer import hf_vocabulary
from leanedge_train.load import _HF_NAMES, hf_config, hf_name, read_hf
from leanedge_train.model import Transformer
from leanedge_train.plan import CachePlan, identity_plan, read_plan
from leanedge_train.tokenizer import embedded_vocabulary, tokenizer_of

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5  # gguf.TokenType
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def write_hf(folder: Path, model: Transformer, **extra: object) -> None:
    """A folder as transformers writes it."""
    config = model.config
    (folder / "config.json").write_text(json.dumps({
        "architectures": [ARCHITECTURES[config.architecture]], "hidden_size": config.dim,
        "intermediate_size": config.ff_dim, "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim, "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_tokens_max, "rms_norm_eps": config.rms_eps,
        "rope_theta": config.rope_base, "tie_word_embeddings": True, **extra,
    }))  # fmt: skip
    ours = {ours: theirs for theirs, ours in _HF_NAMES.items()}
    state = {}
    for name, rows in model.state_dict().items():
        if name in ours:
            theirs = ours[name]
        else:
            _, layer, module, kind = name.split(".")
            theirs = f"model.layers.{layer}.{ours[module]}.{kind}"
        assert hf_name(theirs) == name
        state[theirs] = rows.contiguous()
    save_file(state, str(folder / "model.safetensors"))


def write_tokenizer(folder: Path, vocabulary: Vocabulary) -> None:
    """The tokenizer's files of such a folder."""
    whole = json.loads(tokenizer_of(vocabulary).to_str())
    whole["added_tokens"] = [
        {"id": index, "content": token, "special": kind == CONTROL}
        for index, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]
    names = {"eos_token": vocabulary.eos_id, "bos_token": vocabulary.bos_id}
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "chat_template": vocabulary.chat_template, "add_bos_token": vocabulary.add_bos,
        **{name: vocabulary.tokens[index] for name, index in names.items() if index is not None},
    }))  # fmt: skip


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_a_transformers_folder_gives_the_same_model(tmp_path: Path, architecture: str) -> None:
    model = tiny_model(architecture=architecture, vocab_size=300)
    write_hf(tmp_path, model)
    again = read_hf(tmp_path)
    assert again.config == model.config
    ids = torch.randint(0, 300, (1, 50), generator=torch.Generator().manual_seed(1))
    assert torch.equal(again(ids), model(ids))


def test_llama_3_scaling_becomes_divisors_and_others_are_refused(tmp_path: Path) -> None:
    model = tiny_model(vocab_size=300)
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
    write_hf(tmp_path, model, rope_scaling=llama3)
    factors = hf_config(tmp_path).rope_factors
    assert len(factors) == 16 and factors[0] == 1.0 and factors[-1] == pytest.approx(8.0)
    assert list(factors) == sorted(factors)
    write_hf(tmp_path, model, rope_scaling={"rope_type": "yarn", "factor": 4.0})
    with pytest.raises(ValueError, match="yarn"):
        hf_config(tmp_path)
    write_hf(tmp_path, model, architectures=["MistralForCausalLM"])
    with pytest.raises(ValueError, match="MistralForCausalLM"):
        hf_config(tmp_path)


def test_a_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    plan = CachePlan(
        (((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 31), ()),), 32, "int8", "int2", 8, 64,
        4, 6, 0, 4096, "p", "m", "made up",
    )  # fmt: skip
    plan.write(tmp_path / "m.p.json")
    assert read_plan(tmp_path / "m.p.json") == plan
    assert plan.kept_fraction == 0.25
    with pytest.raises(ValueError, match="keeps 3 channels"):
        CachePlan((((1, 2, 3),),), 32)


def test_page_bytes_are_those_of_the_page_format() -> None:
    # docs/page-format.md, 2.4: width 16, head_dim 64, K int4, V int2.
    plan = CachePlan(((tuple(range(16)),),), 64, "int4", "int2")
    assert plan.page_bytes() == 1088 and plan.archive_bytes_per_token() == 34
    assert identity_plan(1, 1, 64).archive_bytes_per_token() == 256
    # docs/plan-format.md, 4.
    assert plan.cache_bytes(16 + 112 + 31) == 256 * 160
    assert plan.cache_bytes(16 + 112 + 64) == 256 * 160 + 2 * 1088


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "smollm", "gpt-2"])
def test_a_transformers_folder_gives_its_tokenizer(tmp_path: Path, pre: str) -> None:
    ours = embedded_vocabulary()
    vocabulary = replace(
        ours, pre=pre, tokens=("<|im_start|>", "<|im_end|>", *ours.tokens[2:]), eos_id=1,
        bos_id=None, padding_id=None, add_bos=False, chat_template="{{'<|im_start|>' + role}}",
    )  # fmt: skip
    write_tokenizer(tmp_path, vocabulary)
    assert hf_vocabulary(tmp_path, 8192) == vocabulary
    padded = hf_vocabulary(tmp_path, 8200)
    assert padded is not None and padded.tokens[:8192] == vocabulary.tokens
    assert len(set(padded.tokens)) == 8200 and set(padded.types[8192:]) == {UNUSED}
    text = "It's 2026: QXZJK\n\n  said   'no', twice."
    found = tokenizer_of(padded).encode(text).ids
    assert found == tokenizer_of(vocabulary).encode(text).ids
    with pytest.raises(ValueError, match="token 8191 has no embedding: the model has 8000"):
        hf_vocabulary(tmp_path, 8000)


def test_tokenizers_that_are_no_byte_level_bpe_are_refused(tmp_path: Path) -> None:
    assert hf_vocabulary(tmp_path, 100) is None
    unigram = {"model": {"type": "Unigram", "vocab": [["a", 0]]}, "added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(unigram))
    with pytest.raises(ValueError, match="type 'Unigram': BPE"):
        hf_vocabulary(tmp_path, 100)
    bpe = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "pre_tokenizer": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(bpe))
    with pytest.raises(ValueError, match="llama-bpe, qwen2, smollm or gpt-2 expected"):
        hf_vocabulary(tmp_path, 100)
