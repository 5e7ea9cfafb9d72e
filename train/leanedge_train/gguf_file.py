"""Models as GGUF files: reading any that holds a known graph, writing F16, Q8_0 and Q4_0."""

from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

from .config import ModelConfig
from .model import Transformer

# Storage of matrices by name; Q4_0 keeps the embedding in Q8_0, because it is the output too.
STORAGES = {
    "f16": gguf.GGMLQuantizationType.F16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer as a GGUF file states it (byte-level BPE)."""

    pre: str  # tokenizer.ggml.pre
    tokens: tuple[str, ...]
    types: tuple[int, ...]  # gguf.TokenType
    merges: tuple[str, ...]
    bos_id: int | None
    eos_id: int
    padding_id: int | None
    add_bos: bool
    chat_template: str


@dataclass(frozen=True)
class ModelFile:
    """What a GGUF file holds beside its weights."""

    name: str
    config: ModelConfig
    vocabulary: Vocabulary


def _interleave(rows: Tensor, heads: int) -> Tensor:
    """Half-rotation order -> interleaved, per head: llama files hold Q and K so."""
    half = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return half.transpose(1, 2).reshape(rows.shape)


def _deinterleave(rows: Tensor, heads: int) -> Tensor:
    """The inverse of _interleave."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)


def _value(reader: gguf.GGUFReader, key: str, default: object = None) -> object:
    field = reader.get_field(key)
    if field is None:
        if default is None:
            raise ValueError(f"{key} is missing from the GGUF file")
        return default
    return field.contents()


def _vocabulary(reader: gguf.GGUFReader) -> Vocabulary:
    kind = _value(reader, "tokenizer.ggml.model")
    if kind != "gpt2":
        raise ValueError(f"tokenizer.ggml.model is {kind!r}, gpt2 (byte-level BPE) expected")
    bos, padding = (
        _value(reader, f"tokenizer.ggml.{name}_token_id", -1) for name in ("bos", "padding")
    )
    return Vocabulary(
        pre=str(_value(reader, "tokenizer.ggml.pre", "gpt-2")),
        tokens=tuple(_value(reader, "tokenizer.ggml.tokens")),  # type: ignore[arg-type]
        types=tuple(_value(reader, "tokenizer.ggml.token_type")),  # type: ignore[arg-type]
        merges=tuple(_value(reader, "tokenizer.ggml.merges")),  # type: ignore[arg-type]
        bos_id=None if bos == -1 else int(bos),  # type: ignore[call-overload]
        eos_id=int(_value(reader, "tokenizer.ggml.eos_token_id")),  # type: ignore[call-overload]
        padding_id=None if padding == -1 else int(padding),  # type: ignore[call-overload]
        add_bos=bool(_value(reader, "tokenizer.ggml.add_bos_token", False)),
        chat_template=str(_value(reader, "tokenizer.chat_template", " ")).strip(),
    )


def _config(reader: gguf.GGUFReader, names: set[str]) -> ModelConfig:
    architecture = str(_value(reader, "general.architecture"))
    scaling = _value(reader, f"{architecture}.rope.scaling.type", "none")
    if (
        scaling not in ("none", "linear")
        or _value(reader, f"{architecture}.rope.scaling.factor", 1.0) != 1.0
    ):
        raise ValueError(f"RoPE scaling {scaling!r} is not supported here, only none")

    def integer(key: str, default: int | None = None) -> int:
        return int(_value(reader, f"{architecture}.{key}", default))  # type: ignore[call-overload]

    heads, dim = integer("attention.head_count"), integer("embedding_length")
    factors: tuple[float, ...] = ()
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            factors = tuple(float(value) for value in tensor.data)
    return ModelConfig(
        architecture=architecture,
        layers=integer("block_count"),
        dim=dim,
        ff_dim=integer("feed_forward_length"),
        heads=heads,
        kv_heads=integer("attention.head_count_kv", heads),
        head_dim=integer("attention.key_length", dim // heads),
        vocab_size=len(_value(reader, "tokenizer.ggml.tokens")),  # type: ignore[arg-type]
        context_tokens_max=integer("context_length"),
        rope_base=float(_value(reader, f"{architecture}.rope.freq_base", 10_000.0)),  # type: ignore[arg-type]
        rms_eps=float(_value(reader, f"{architecture}.attention.layer_norm_rms_epsilon")),  # type: ignore[arg-type]
        tied_embeddings="output.weight" not in names,
        rope_factors=factors,
    )


def read_gguf(path: Path) -> tuple[Transformer, ModelFile]:
    """Reads a file; weights become f32, Q and K rows half-rotation order."""
    reader = gguf.GGUFReader(path)
    config = _config(reader, {tensor.name for tensor in reader.tensors})
    model = Transformer(config)
    state: dict[str, Tensor] = {}
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        rows = torch.from_numpy(np.array(values))
        if config.architecture == "llama" and ".attn_q." in tensor.name:
            rows = _deinterleave(rows, config.heads)
        if config.architecture == "llama" and ".attn_k." in tensor.name:
            rows = _deinterleave(rows, config.kv_heads)
        state[tensor.name] = rows
    model.load_state_dict(state)
    return model, ModelFile(
        str(_value(reader, "general.name", path.stem)), config, _vocabulary(reader)
    )


def storage_of(name: str, rows: Tensor, storage: str) -> gguf.GGMLQuantizationType:
    """How a tensor is stored: vectors stay f32, matrices follow the file's storage."""
    if rows.dim() < 2:
        return gguf.GGMLQuantizationType.F32
    if storage == "q4_0" and name in ("token_embd.weight", "output.weight"):
        return STORAGES["q8_0"]
    return STORAGES[storage]


def write_gguf(
    path: Path, model: Transformer, file: ModelFile, storage: str, description: str = ""
) -> None:
    """Writes a model. `storage` is f16, q8_0 or q4_0; rows are multiples of 32 for the latter."""
    config, vocabulary = model.config, file.vocabulary
    writer = gguf.GGUFWriter(path, config.architecture)
    writer.add_name(file.name)
    if description:
        writer.add_description(description)
    writer.add_file_type({"f16": 1, "q8_0": 7, "q4_0": 2}[storage])
    writer.add_context_length(config.context_tokens_max)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.ff_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_layer_norm_rms_eps(config.rms_eps)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    writer.add_token_merges(list(vocabulary.merges))
    if vocabulary.bos_id is not None:
        writer.add_bos_token_id(vocabulary.bos_id)
    writer.add_eos_token_id(vocabulary.eos_id)
    if vocabulary.padding_id is not None:
        writer.add_pad_token_id(vocabulary.padding_id)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(vocabulary.chat_template)
    if config.rope_factors:
        writer.add_tensor("rope_freqs.weight", np.array(config.rope_factors, dtype=np.float32))
    for name, parameter in model.state_dict().items():
        rows = parameter.detach().float().cpu()
        if config.architecture == "llama" and ".attn_q." in name:
            rows = _interleave(rows, config.heads)
        if config.architecture == "llama" and ".attn_k." in name:
            rows = _interleave(rows, config.kv_heads)
        kind = storage_of(name, rows, storage)
        data = gguf.quants.quantize(np.ascontiguousarray(rows.numpy()), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def with_name(file: ModelFile, name: str, config: ModelConfig) -> ModelFile:
    """The same vocabulary for another model."""
    return replace(file, name=name, config=config)
