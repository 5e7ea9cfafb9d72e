"""The tokenizer of a transformers folder as a GGUF file states it: byte-level BPE only."""

import json
from collections.abc import Iterator
from pathlib import Path

from .gguf_file import Vocabulary

# gguf.TokenType
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


def _read(folder: Path, name: str) -> dict:
    path = folder / name
    return json.loads(path.read_text()) if path.exists() else {}


def _steps(pre_tokenizer: dict | None) -> Iterator[dict]:
    """The steps of a pre-tokenizer, one after another."""
    if pre_tokenizer is None:
        return
    if pre_tokenizer["type"] == "Sequence":
        for step in pre_tokenizer["pretokenizers"]:
            yield from _steps(step)
    else:
        yield pre_tokenizer


def pre_name(pre_tokenizer: dict | None) -> str:
    """GGUF's name of the way in which tokenizer.json cuts text into words."""
    steps = list(_steps(pre_tokenizer))
    kinds = [step["type"] for step in steps]
    if kinds == ["Split", "ByteLevel"]:
        expression = steps[0]["pattern"].get("Regex", "")
        if r"\p{N}{1,3}" in expression:
            return "llama-bpe"
        if r"|\p{N}|" in expression:
            return "qwen2"
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]:
        return "smollm"
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    raise ValueError(f"pre-tokenizer of {kinds}: llama-bpe, qwen2, smollm or gpt-2 expected")


def _chat_template(folder: Path, config: dict) -> str:
    beside = folder / "chat_template.jinja"  # transformers 5
    if beside.exists():
        return beside.read_text()
    template = config.get("chat_template") or ""
    if isinstance(template, list):  # several by name
        template = {entry["name"]: entry["template"] for entry in template}.get("default", "")
    return template


def hf_vocabulary(folder: Path, rows: int) -> Vocabulary | None:
    """The tokenizer of a folder whose model has `rows` embeddings; None where there is none.

    Rows beyond the tokenizer's own tokens get names that no text has.
    """
    file = _read(folder, "tokenizer.json")
    if not file:
        return None
    model, config = file["model"], _read(folder, "tokenizer_config.json")
    if model["type"] != "BPE" or not model["vocab"]:
        raise ValueError(f"tokenizer of type {model['type']!r}: BPE with a vocabulary expected")
    pre = pre_name(file.get("pre_tokenizer"))
    tokens = {index: token for token, index in model["vocab"].items()}
    types = dict.fromkeys(tokens, _NORMAL)
    for added in file.get("added_tokens", []):
        tokens[added["id"]] = added["content"]
        types[added["id"]] = _CONTROL if added["special"] else _USER_DEFINED
    if max(tokens) >= rows:
        raise ValueError(f"token {max(tokens)} has no embedding: the model has {rows}")
    ids = {token: index for index, token in tokens.items()}

    def special(name: str) -> int | None:
        value = config.get(f"{name}_token")
        text = value.get("content") if isinstance(value, dict) else value
        return ids.get(text) if text is not None else None

    bos, eos = special("bos"), special("eos")
    if eos is None:
        raise ValueError("tokenizer_config.json names no eos_token of the vocabulary")
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    return Vocabulary(
        pre=pre,
        tokens=tuple(tokens.get(index, f"<|unused {index}|>") for index in range(rows)),
        types=tuple(types.get(index, _UNUSED) for index in range(rows)),
        merges=tuple(merges),
        bos_id=bos,
        eos_id=eos,
        padding_id=special("pad"),
        # Llama 3's files leave it to their post-processor, which puts BOS in front.
        add_bos=bool(config.get("add_bos_token", pre == "llama-bpe" and bos is not None)),
        chat_template=_chat_template(folder, config),
    )
