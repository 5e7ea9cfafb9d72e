"""Opens a model wherever it lies: GGUF, a training run's model.pt, or a transformers folder."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .cache import exact_enough
from .config import ModelConfig
from .gguf_file import ModelFile, read_gguf
from .hf_tokenizer import hf_vocabulary
from .model import Transformer
from .tokenizer import embedded_vocabulary
from .weights import as_stored

_HF_ARCHITECTURES = {
    "LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3",
}  # fmt: skip
_HF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def _llama3_factors(scaling: dict[str, float], config: dict[str, float], half: int) -> list[float]:
    """Llama 3.1's frequency scaling as divisors (rope_freqs of GGUF)."""
    base = float(config.get("rope_theta", scaling.get("rope_theta", 10_000.0)))
    frequency = base ** -(torch.arange(half, dtype=torch.float64) / half)
    wavelength = 2 * torch.pi / frequency
    original = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - smooth) / scaling["factor"] + smooth)).tolist()


def hf_config(folder: Path) -> ModelConfig:
    """Hyper-parameters of a transformers folder."""
    file = json.loads((folder / "config.json").read_text())
    name = file["architectures"][0]
    if name not in _HF_ARCHITECTURES:
        raise ValueError(f"architecture {name!r}: one of {sorted(_HF_ARCHITECTURES)} expected")
    heads = file["num_attention_heads"]
    head_dim = file.get("head_dim") or file["hidden_size"] // heads
    # transformers 5 moved the base into rope_parameters; before it stood beside rope_scaling.
    rope = file.get("rope_parameters") or file.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise ValueError(f"RoPE scaling {kind!r}: default or llama3 expected")
    factors = _llama3_factors(rope, file, head_dim // 2) if kind == "llama3" else []
    return ModelConfig(
        architecture=_HF_ARCHITECTURES[name],
        layers=file["num_hidden_layers"],
        dim=file["hidden_size"],
        ff_dim=file["intermediate_size"],
        heads=heads,
        kv_heads=file.get("num_key_value_heads", heads),
        head_dim=head_dim,
        vocab_size=file["vocab_size"],
        context_tokens_max=file["max_position_embeddings"],
        rope_base=float(file.get("rope_theta", rope.get("rope_theta", 10_000.0))),
        rms_eps=file["rms_norm_eps"],
        tied_embeddings=bool(file.get("tie_word_embeddings", False)),
        rope_factors=tuple(factors),
    )


def hf_name(name: str) -> str:
    """transformers' parameter name -> ours."""
    if name in _HF_NAMES:
        return _HF_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    module, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{_HF_NAMES[module]}.{kind}"


def read_hf(folder: Path) -> Transformer:
    """Reads config.json and safetensors of a transformers folder; needs no transformers."""
    from safetensors.torch import load_file

    config = hf_config(folder)
    state: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, value in load_file(path).items():
            if name == "lm_head.weight" and config.tied_embeddings:
                continue
            if not name.endswith("rotary_emb.inv_freq"):
                state[hf_name(name)] = value.float()
    model = Transformer(config)
    model.load_state_dict(state)
    return model


def read_run(path: Path) -> tuple[Transformer, ModelFile]:
    """Reads model.pt of a training run."""
    state = torch.load(path, map_location="cpu")
    config = ModelConfig.from_dict(state["config"])
    model = Transformer(config)
    model.load_state_dict(state["model"])
    return model, ModelFile("leanedge", config, embedded_vocabulary())


FINGERPRINT_BLOCK = 4 << 20  # bytes; src/engine/gguf/fingerprint.ts


def fingerprint(path: Path) -> str:
    """The name of a model file's content, as the engine computes it."""
    inner = []
    with path.open("rb") as file:
        while block := file.read(FINGERPRINT_BLOCK):
            inner.append(hashlib.sha256(block).digest())
    size = path.stat().st_size.to_bytes(8, "little")
    return hashlib.sha256(b"leanedge model 1\n" + size + b"".join(inner)).hexdigest()


@dataclass(frozen=True)
class Measured:
    """A model that is measured, on the machine's best device."""

    path: Path
    model: Transformer
    file: ModelFile
    device: torch.device


def open_measured(path: Path, storage: str = "") -> Measured:
    """Opens a model with its vocabulary for measuring: bf16 on a GPU, f32 elsewhere; with the
    weights that a file of `storage` (f16, q8_0, q4_0) would hold, if it is named."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    exact_enough()
    model, file = open_model(path)
    if file is None:
        raise ValueError(f"{path}: a model with its vocabulary (GGUF, or model.pt) expected")
    if storage:
        for name, parameter in model.named_parameters():
            parameter.data = as_stored(name, parameter.data, storage)
    model.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32).eval()
    return Measured(path, model, file, device)


def open_model(path: Path) -> tuple[Transformer, ModelFile | None]:
    """A model, and its vocabulary where the file has one."""
    if path.is_dir():
        model = read_hf(path)
        vocabulary = hf_vocabulary(path, model.config.vocab_size)
        if vocabulary is None:
            return model, None
        return model, ModelFile(path.resolve().name, model.config, vocabulary)
    return read_gguf(path) if path.suffix == ".gguf" else read_run(path)
