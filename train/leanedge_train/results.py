"""Result files: a line for each method that says what it is, a line for each sample under it.

The schema is that of src/eval/samples-file.ts, so that one report reads both evaluators' files.
"""

import hashlib
import json

from .load import Measured, fingerprint
from .methods import Method
from .tasks_file import EvalTask


def method_line(method: Method, measured: Measured, series: str) -> dict[str, object]:
    """What a method is."""
    plan, config = method.plan, measured.model.config
    return {
        "method": method.name,
        "model": measured.path.stem,
        "model_fingerprint": fingerprint(measured.path),
        "plan_fingerprint": plan.fingerprint(),
        "backend": "reference",
        "bytes_per_token": plan.archive_bytes_per_token(),
        "dense_bytes_per_token": config.layers * config.kv_heads * config.head_dim * 4,
        "kept_fraction": plan.kept_fraction,
        "sink": plan.sink,
        "recent": plan.recent,
        "pages_per_step": plan.pages_per_step,
        "origin": plan.source,
        "series": series,
    }


def sample_hash(task: EvalTask) -> str:
    """Sixteen digits that tell samples apart, as the engine's evaluator has them."""
    text = json.dumps(
        [task.ids, task.answers, task.score, task.max_tokens],
        separators=(",", ":"), ensure_ascii=False,
    )  # fmt: skip
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def result_line(method: Method, task: EvalTask, **found: object) -> dict[str, object]:
    """One sample under one method: `score` and `text`, and `loss` where that is measured."""
    return {
        "method": method.name, "task": task.task, "length": task.length, "seed": task.seed,
        **found, "sample": sample_hash(task),
    }  # fmt: skip
