"""Hyper-parameters of a model: the graphs that leanedge's engine computes, and no others."""

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class ModelConfig:
    """One model. Fields and names are those of src/engine/gguf/model-config.ts."""

    architecture: str = "llama"  # llama, qwen2 (biases on Q, K, V) or qwen3 (norms on Q and K)
    layers: int = 8
    dim: int = 512
    ff_dim: int = 1536
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 64
    vocab_size: int = 8192
    context_tokens_max: int = 8192
    rope_base: float = 100_000.0
    rms_eps: float = 1e-5
    tied_embeddings: bool = True
    # Divides the frequency of each channel pair (Llama 3's rope_freqs); empty: all 1.
    rope_factors: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.architecture not in ("llama", "qwen2", "qwen3"):
            raise ValueError(f"architecture {self.architecture!r}: llama, qwen2 or qwen3 expected")
        if self.heads % self.kv_heads != 0:
            raise ValueError(
                f"{self.heads} query heads are no multiple of {self.kv_heads} KV heads"
            )
        if self.head_dim % 2 != 0:
            raise ValueError(f"head_dim is {self.head_dim}, an even number expected")
        if self.rope_factors and len(self.rope_factors) != self.head_dim // 2:
            raise ValueError(
                f"{len(self.rope_factors)} RoPE factors, {self.head_dim // 2} expected (one a pair)"
            )

    @property
    def qkv_bias(self) -> bool:
        """Whether the Q, K and V products have biases."""
        return self.architecture == "qwen2"

    @property
    def qk_norm(self) -> bool:
        """Whether Q and K are normalised per head before RoPE."""
        return self.architecture == "qwen3"

    def to_dict(self) -> dict[str, object]:
        """Plain values for a checkpoint or a model card."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, object]) -> "ModelConfig":
        """The inverse of to_dict, also after JSON turned the tuple into a list."""
        known = dict(values)
        known["rope_factors"] = tuple(known.get("rope_factors", ()))  # type: ignore[arg-type]
        return ModelConfig(**known)  # type: ignore[arg-type]


# The embedded model: 29.4M parameters.
EMBEDDED = ModelConfig()
# For tests and the short training run: 0.3M parameters, every mechanism of the large one.
TINY = ModelConfig(
    layers=2, dim=64, ff_dim=128, heads=2, kv_heads=1, head_dim=32, vocab_size=512,
    context_tokens_max=512,
)  # fmt: skip
