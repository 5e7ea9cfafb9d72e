"""Writes the plans of all methods that are plans: python3 -m leanedge_train.make_plans ...

Channels come from learned factors and gates (factors.pt of learn_plan), from magnitudes that a
short forward pass over generated prompts collects, from RoPE frequencies, or from a seed. Leaves
MODEL.METHOD.json in the folder, where `leanedge eval run --plans` finds it, and scores.json: what
the masks were made from. A LeanK plan that is there already, learn_plan's, stays.
"""

import argparse
import json
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from .cache import prefill
from .corpus import read_corpus
from .learn_plan import file_name
from .load import Measured, fingerprint, open_measured
from .methods import THINK_QUERIES, Scores, parse_method, read_scores, think_scores
from .model import Transformer
from .plan_data import chats, haystack_of
from .tails import tail_of
from .tokenizer import renderer

SHARES = (50, 60, 70, 80, 90, 95)
ALWAYS = ("low", "random", "magnitude", "magnitude-even")
FROM_FACTORS = ("leank", "leank-even", "heads")


@torch.no_grad()
def calibrate(model: Transformer, prompts: list[list[int]]) -> Tensor:
    """Mean of ThinK's scores over prompts: (layers, kv_heads, head_dim)."""
    device = model.token_embd.weight.device
    total = torch.zeros(1)
    for ids in prompts:
        cache = prefill(
            model, torch.tensor([ids], device=device), torch.tensor([len(ids)], device=device),
            THINK_QUERIES,
        )  # fmt: skip
        total = total + think_scores(cache)[:, 0].cpu().float()
    return total / len(prompts)


def rounded(values: Tensor) -> object:
    """Nested lists of four significant digits: small files, and the same masks."""
    if values.dim() > 1:
        return [rounded(part) for part in values]
    return [float(f"{float(value):.4g}") for value in values]


def default_methods(scores: Scores) -> list[str]:
    """Every method that there is something to make from, at every share."""
    names = [*ALWAYS, *(FROM_FACTORS if scores.factors is not None else ())]
    names += ["duo"] if scores.gates is not None else []
    return [f"{name}-{share}" for name in names for share in SHARES]


def compute_scores(arguments: argparse.Namespace, measured: Measured) -> Scores:
    """Magnitudes of a forward pass, with what was learned beside; all of it goes to scores.json."""
    model, file = measured.model, measured.file
    corpus = read_corpus(arguments.corpus)
    make_chat = chats(corpus, haystack_of(corpus, arguments.books), "mixed")
    render_chat, random = renderer(file.vocabulary), Random("calibration")
    prompts = [
        tail_of(make_chat(random, arguments.tokens), render_chat, False).context
        for _ in range(arguments.prompts)
    ]
    found: dict[str, Tensor] = {"magnitude": calibrate(model, prompts)}
    if arguments.factors:
        state = torch.load(arguments.factors, map_location="cpu")
        found["factors"] = state["factors"][arguments.factor_set].float()
        if "gates" in state:
            found["gates"] = state["gates"].float()
    by_task = {}
    for pair in arguments.task_factors:
        task, path = pair.split("=", 1)
        state = torch.load(path, map_location="cpu")
        by_task[task] = rounded(state["factors"][arguments.factor_set].float())
    listed = {
        "model": file.name, "model_fingerprint": fingerprint(arguments.model),
        "rope_base": model.config.rope_base, "calibration_prompts": arguments.prompts,
        **{name: rounded(values) for name, values in found.items()}, "factors_by_task": by_task,
    }  # fmt: skip
    path = arguments.out / "scores.json"
    path.write_text(json.dumps(listed, separators=(",", ":")) + "\n")
    # Masks are those of the file, digit for digit.
    return read_scores(path)


def main() -> None:
    """The command."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", type=Path, required=True)
    source = options.add_mutually_exclusive_group(required=True)
    source.add_argument("--corpus", type=Path, help="calibration prompts come from")
    source.add_argument("--scores", type=Path, help="scores.json that is there")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--factors", type=Path, help="factors.pt of learn_plan")
    options.add_argument("--factor-set", type=int, default=1, help="which L1 weight's")
    options.add_argument(
        "--task-factors", nargs="+", default=[], metavar="TASK=FILE",
        help="factors.pt that were learned from one kind of data: kept beside, to compare",
    )  # fmt: skip
    options.add_argument("--methods", nargs="+", default=[])
    options.add_argument("--prompts", type=int, default=8)
    options.add_argument("--tokens", type=int, default=1000, help="of a prompt, about")
    options.add_argument("--books", type=int, default=12, help="that prompts come from")
    arguments = options.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    measured = open_measured(arguments.model)
    model, file = measured.model, measured.file
    if arguments.scores:
        scores = read_scores(arguments.scores)
    else:
        scores = compute_scores(arguments, measured)
    for name in arguments.methods or default_methods(scores):
        plan = parse_method(name, model.config, scores).plan
        path = arguments.out / file_name(file.name, plan.name)
        if name.startswith("leank-") and path.exists():
            print(f"{name}: stays as it is")
            continue
        plan.for_model(file.name).write(path)
        print(f"{name}: {plan.archive_bytes_per_token():.0f} bytes a token")


if __name__ == "__main__":
    main()
