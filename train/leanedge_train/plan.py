"""Cache plans: files after schema/plan.schema.json, their bytes, their fingerprint."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from .pages import GROUP_CHANNELS, PAGE_SLOTS, STORAGE_BITS

WIDTH_STEP = 16
SECTION_ALIGN = 16

Kept = tuple[tuple[tuple[int, ...], ...], ...]  # [layer][kv_head][channel], increasing


@dataclass(frozen=True)
class CachePlan:
    """What the archive keeps of each token; docs/plan-format.md explains every field."""

    kept: Kept
    head_dim: int
    storage_k: str = "f16"
    storage_v: str = "f16"
    sink: int = 16
    recent: int = 112
    pages_per_step: int = 0  # 0: every page is read
    pages_floor: int = 0
    context_tokens_min: int = 0
    context_tokens_max: int = 1_048_576
    name: str = "plan"
    model: str = "*"
    source: str = ""
    notes: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for layer, heads in enumerate(self.kept):
            for head, channels in enumerate(heads):
                width = len(channels)
                if width % WIDTH_STEP != 0 and width != self.head_dim:
                    raise ValueError(
                        f"layer {layer} head {head} keeps {width} channels, "
                        f"a multiple of {WIDTH_STEP} or {self.head_dim} expected"
                    )
                if list(channels) != sorted(set(channels)):
                    raise ValueError(f"layer {layer} head {head}: channels do not increase")
                if width and not 0 <= channels[0] <= channels[-1] < self.head_dim:
                    raise ValueError(f"layer {layer} head {head}: a channel beyond {self.head_dim}")

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return len(self.kept)

    @property
    def kv_heads(self) -> int:
        """KV heads of each layer."""
        return len(self.kept[0])

    @property
    def kept_fraction(self) -> float:
        """Share of all K channels that stay."""
        widths = sum(len(channels) for heads in self.kept for channels in heads)
        return widths / (self.layers * self.kv_heads * self.head_dim)

    def mask(self) -> Tensor:
        """Kept channels as 0 and 1: (layers, kv_heads, head_dim), f32."""
        mask = torch.zeros(self.layers, self.kv_heads, self.head_dim)
        for layer, heads in enumerate(self.kept):
            for head, channels in enumerate(heads):
                mask[layer, head, list(channels)] = 1.0
        return mask

    def page_bytes(self) -> int:
        """Bytes of a page, all layers together (docs/page-format.md, 2)."""
        return sum(self.head_bytes(len(channels)) for heads in self.kept for channels in heads)

    def head_bytes(self, width: int) -> int:
        """Bytes of the block of a head of `width` channels."""
        if width == 0:
            return 0
        k_bits, v_bits = STORAGE_BITS[self.storage_k], STORAGE_BITS[self.storage_v]
        sections = [width * PAGE_SLOTS * k_bits // 8]
        if k_bits < 16 or self.pages_per_step > 0:
            sections += [2 * width, 2 * width]  # scale and min, or min and max
        sections.append(PAGE_SLOTS * self.head_dim * v_bits // 8)
        if v_bits < 16:
            groups = -(-self.head_dim // GROUP_CHANNELS)
            sections += [2 * PAGE_SLOTS * groups] * 2
        return sum(-(-section // SECTION_ALIGN) * SECTION_ALIGN for section in sections)

    def archive_bytes_per_token(self) -> float:
        """Bytes that one token takes once it is in the archive."""
        return self.page_bytes() / PAGE_SLOTS

    def cache_bytes(self, tokens: int) -> int:
        """Bytes of the cache of `tokens` tokens, zones included (docs/plan-format.md, 4)."""
        dense = self.layers * self.kv_heads * self.head_dim * 4
        pages = max(0, (tokens - self.sink - self.recent) // PAGE_SLOTS)
        return dense * (self.sink + self.recent + PAGE_SLOTS) + pages * self.page_bytes()

    def for_model(self, model: str) -> "CachePlan":
        """The same plan under the name of a model."""
        return replace(self, model=model)

    def fingerprint(self) -> str:
        """SHA-256 of the canonical form, lower-case hexadecimal."""
        selection: object = "off"
        if self.pages_per_step > 0:
            selection = {"pages_floor": self._floor(), "pages_per_step": self.pages_per_step}
        canonical = {
            "evicting": False,
            "head_dim": self.head_dim,
            "kept": self.kept,
            "kv_heads": self.kv_heads,
            "layers": self.layers,
            "page_selection": selection,
            "recent": self.recent,
            "sink": self.sink,
            "storage": {"k": self.storage_k, "v": self.storage_v},
            "version": 1,
        }
        text = json.dumps(canonical, separators=(",", ":"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _floor(self) -> int:
        return max(self.pages_floor, self.pages_per_step)

    def to_json(self) -> str:
        """The file: one line a layer, so that a difference between two plans can be read."""
        head: dict[str, object] = {
            "version": 1,
            "name": self.name,
            "model": self.model,
            "source": self.source,
            "layers": self.layers,
            "kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "channel_order": "half-rotation",
            "sink": self.sink,
            "recent": self.recent,
            "storage": {"k": self.storage_k, "v": self.storage_v},
            "kept_fraction": round(self.kept_fraction, 4),
        }
        if self.pages_per_step > 0:
            head["page_selection"] = {
                "pages_per_step": self.pages_per_step,
                "pages_floor": self._floor(),
            }
        if (self.context_tokens_min, self.context_tokens_max) != (0, 1_048_576):
            head["context"] = {
                "min_tokens": self.context_tokens_min,
                "max_tokens": self.context_tokens_max,
            }
        if self.notes:
            head["notes"] = self.notes
        rows = ",\n".join(json.dumps(heads, separators=(",", ":")) for heads in self.kept)
        return json.dumps(head)[:-1] + ',\n"kept":[\n' + rows + "\n]}\n"

    def write(self, path: Path) -> None:
        """Writes the file."""
        path.write_text(self.to_json())


def kept_of(mask: Tensor) -> Kept:
    """(layers, kv_heads, head_dim) of 0 and 1 -> lists of channels."""
    return tuple(
        tuple(tuple(int(c) for c in head.nonzero().flatten()) for head in layer) for layer in mask
    )


def identity_plan(layers: int, kv_heads: int, head_dim: int, **rest: object) -> CachePlan:
    """Everything kept, in f16 unless `rest` says otherwise."""
    kept = kept_of(torch.ones(layers, kv_heads, head_dim))
    return CachePlan(kept, head_dim, **rest)  # type: ignore[arg-type]


def read_plan(path: Path) -> CachePlan:
    """Reads a file that the engine accepts; it is the engine's loader that checks the schema."""
    file = json.loads(path.read_text())
    kept = tuple(tuple(tuple(channels) for channels in heads) for heads in file["kept"])
    selection = file.get("page_selection", "off")
    storage = file.get("storage", {})
    context = file.get("context", {})
    plan = CachePlan(kept, file["head_dim"])
    if selection != "off":
        plan = replace(
            plan,
            pages_per_step=selection["pages_per_step"],
            pages_floor=selection.get("pages_floor", selection["pages_per_step"]),
        )
    return replace(
        plan,
        storage_k=storage.get("k", "f16"),
        storage_v=storage.get("v", "f16"),
        sink=file.get("sink", 16),
        recent=file.get("recent", 112),
        context_tokens_min=context.get("min_tokens", 0),
        context_tokens_max=context.get("max_tokens", 1_048_576),
        name=file.get("name", path.stem.removeprefix(file["model"] + ".")),
        model=file["model"],
        source=file.get("source", ""),
    )
