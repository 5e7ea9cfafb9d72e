"""Writes a trained model as GGUF files with a model card: python3 -m leanedge_train.export ...

Reads model.pt of a training run (or any GGUF file, to store it otherwise) and its log.jsonl.
"""

import argparse
from pathlib import Path

import torch

from .card import card, figures, read_log
from .gguf_file import STORAGES, read_gguf, with_name, write_gguf
from .load import open_model
from .model import Transformer
from .weights import as_stored


def largest_error(model: Transformer, path: Path, storage: str) -> float:
    """Reads the file back: the largest difference from what its storage promises."""
    again = read_gguf(path)[0].state_dict()
    return max(
        float((again[name] - as_stored(name, rows.float(), storage)).abs().max())
        for name, rows in model.state_dict().items()
    )


def main() -> None:
    """The command."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--name", required=True)
    options.add_argument("--storages", nargs="+", choices=sorted(STORAGES), default=["q4_0"])
    options.add_argument("--log", type=Path)
    options.add_argument(
        "--scores", type=Path, nargs="*", default=[], help="result files, for the card's figures"
    )
    options.add_argument("--no-card", action="store_true")
    arguments = options.parse_args()
    model, file = open_model(arguments.model)
    if file is None:
        raise ValueError(f"{arguments.model} has no vocabulary")
    file = with_name(file, arguments.name, model.config)
    if "f16" in arguments.storages:
        # Other files are then those that the F16 file gives, byte for byte.
        for name, parameter in model.named_parameters():
            parameter.data = as_stored(name, parameter.data, "f16")
    arguments.out.mkdir(parents=True, exist_ok=True)
    written = []
    for storage in arguments.storages:
        path = arguments.out / f"{arguments.name}-{storage}.gguf"
        write_gguf(
            path, model, file, storage, "leanedge's embedded model: long sessions, retrieval"
        )
        error = largest_error(model, path, storage)
        print(f"{path.name}: {path.stat().st_size} bytes, largest error read back {error:.2e}")
        written.append(path)
    if not arguments.no_card:
        log = read_log(arguments.log or arguments.model.parent / "log.jsonl")
        text = card(file, model, written, log, figures(arguments.scores))
        (arguments.out / f"{arguments.name}.md").write_text(text)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
