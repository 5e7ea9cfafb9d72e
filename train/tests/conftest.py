"""What the tests share: a tiny model, its file, and leanedge's own engine."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from leanedge_train.config import ModelConfig
from leanedge_train.gguf_file import ModelFile
from leanedge_train.model import Transformer, initialise
from leanedge_train.tokenizer import embedded_vocabulary

ROOT = Path(__file__).parents[2]
TSX = ROOT / "node_modules" / ".bin" / "tsx"

torch.set_num_threads(1)


def tiny_model(seed: int = 1, **changes: object) -> Transformer:
    """Random weights of all kinds, none of them zero."""
    shape = {
        "layers": 2, "dim": 64, "ff_dim": 96, "heads": 4, "kv_heads": 2, "head_dim": 32,
        "vocab_size": 8192, "context_tokens_max": 512, **changes,
    }  # fmt: skip
    model = Transformer(ModelConfig(**shape))  # type: ignore[arg-type]
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.1 if parameter.dim() > 1 else 0.2
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
            parameter.requires_grad_(False)
    return model


def tiny_file(model: Transformer) -> ModelFile:
    """The description of a tiny model's file."""
    return ModelFile("tiny", model.config, embedded_vocabulary())


def ask_engine(**request: object) -> dict:
    """Runs leanedge's engine (train/engine-check.ts)."""
    whole = {"plans": [], "prompt": [1], "answerTokens": 1, "text": "", **request}
    node = ROOT / "node_modules" / ".bin"
    environment = {**os.environ, "PATH": f"{node}:{os.environ['PATH']}"}
    done = subprocess.run(
        [TSX, ROOT / "train" / "engine-check.ts"], input=json.dumps(whole), text=True,
        capture_output=True, timeout=120, env=environment, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def needs_engine() -> pytest.MarkDecorator:
    """Skips without Node's packages; in CI they must be there."""
    missing = not TSX.exists() and os.environ.get("LEANEDGE_CI") != "1"
    return pytest.mark.skipif(missing, reason="needs node_modules: npm ci")
