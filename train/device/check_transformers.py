"""Random Llama, Qwen2 and Qwen3 checkpoints of transformers, read by leanedge_train: same logits?

For machines that have transformers: python3 train/device/check_transformers.py. Exits 1 on failure.
"""

import sys
import tempfile
from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from leanedge_train.load import read_hf

SHAPE = {
    "vocab_size": 320, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128, "rope_theta": 500_000.0,
}  # fmt: skip
LOGIT_ERROR_MAX = 2e-4  # f32 on both sides, logits of about 1


def main() -> int:
    """Compares the logits of each architecture."""
    cases = {
        "llama": (LlamaForCausalLM, LlamaConfig(**SHAPE, tie_word_embeddings=True)),
        "llama 3 RoPE": (
            LlamaForCausalLM,
            LlamaConfig(**SHAPE, tie_word_embeddings=False, rope_parameters=LLAMA3),
        ),
        "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, tie_word_embeddings=True)),
        "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SHAPE, head_dim=64, tie_word_embeddings=True)),
    }
    failed = 0
    for name, (kind, config) in cases.items():
        torch.manual_seed(1)
        theirs = kind(config).float().eval()
        for parameter in theirs.parameters():
            torch.nn.init.normal_(parameter, std=0.08)
        with tempfile.TemporaryDirectory() as folder:
            theirs.save_pretrained(folder)
            ours = read_hf(Path(folder))
        ids = torch.randint(0, 320, (2, 200))
        with torch.no_grad():
            error = float((ours.logits(ours(ids)) - theirs(ids).logits).abs().max())
        verdict = "ok" if error <= LOGIT_ERROR_MAX else "FAILED"
        failed += verdict != "ok"
        print(f"{name}: largest difference of logits {error:.2e} {verdict}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
