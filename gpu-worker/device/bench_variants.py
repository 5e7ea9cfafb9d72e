"""Forms of kernels against each other (gpu-worker/src/kernels/variants.h), so that one run says which becomes the
default. `attention`: decode attention alone where it misses its aims, through the harness; `matrix`: all products of a
step at batch 1, likewise; `engine`: whole steps at batch 1 behind 2,048 tokens; `batch`: the same of 8 to 32 sequences;
`tune`: which of two forms is faster, for the steps behind this one. Most telling cases come first. Prints a line a case
and keeps variants-PART.json and .md in $OUT up to date.

    python3 bench_variants.py attention|matrix|engine|batch|tune [--forms q4_0,fp8,bf16] [--together 0] [--seconds N]"""

import argparse
import itertools
import os

from engine_bench import DEVICE, BenchEngine, Report, decode, fill, kept_channels, late, plan

ATTENTION = (
    "",
    "merge_together=4",
    "merge_group=1",
    "share_min=4096",
    "share_min=8192",
    "share_min=4096,merge_together=4",
    "share_min=4096,merge_group=1",
)
MATRIX = ("", "balance=0", "")
MIB = 1 << 20
ENGINE = (
    "",
    "beside=0",
    "merge_together=4",
    "share_min=4096",
    "share_min=4096,merge_together=4",
    f"next_bytes={8 * MIB},next_far_bytes={16 * MIB}",
    "share_min=8192",
    "rotate_early=0",
    "",  # again: what differs from the first is noise
)
BATCH = ("", "block_rows=0", "block_rows=32", "")
# Model, mask, storage, batch, tokens: those that miss, the furthest from their aims first.
SHAPES = (
    ("qwen2.5-7b", True, 0, 1, 131072),
    ("llama-3.1-8b", True, 3, 1, 131072),
    ("llama-3.1-8b", True, 2, 1, 131072),
    ("llama-3.1-8b", True, 0, 1, 131072),
    ("llama-3.1-8b", False, 0, 1, 2048),
    ("llama-3.1-8b", True, 1, 1, 131072),
    ("qwen2.5-7b", True, 0, 8, 32768),
    ("llama-3.1-8b", True, 3, 8, 32768),
    ("llama-3.1-8b", True, 2, 1, 2048),
    ("llama-3.1-8b", True, 2, 64, 8192),
)


def choose(variant):
    os.environ["LEANEDGE_CUDA_VARIANTS"] = variant


def attention(report, together, seconds):
    from bench import Bench
    from harness import library

    bench = Bench(os.environ["LEANEDGE_MASKS"])
    variants = [v for v in ATTENTION if together or "together" not in v]
    for model, mask, storage, batch, tokens in SHAPES:
        if late(seconds):
            return
        case = bench.prepare(model, mask, storage, storage, batch, tokens)
        for variant in variants:
            if late(seconds):
                return
            choose(variant)
            library.harness_variants_read()
            bench.timed(case)
            line = bench.lines[-1]
            names = ("model", "mask", "k", "batch", "tokens", "us", "gbs", "of_limit")
            report.show(case="attention", variant=variant or "as it is", **{n: line[n] for n in names})


def matrix(report, forms, seconds):
    import torch
    from bench_matrix import step_products
    from harness import library
    from matrix_harness import Context
    from measure import captured, median_ms

    context = Context()
    for form in forms:
        run, size = step_products(context, {"q4_0": "int4", "q8_0": "int8"}.get(form, form), 1)
        for variant in MATRIX:
            if late(seconds):
                return
            choose(variant)
            library.harness_variants_read()
            us = 1e3 * median_ms(captured(run), 9)
            report.show(
                case="products of a step",
                form=form,
                variant=variant or "as it is",
                us=us,
                gbs=size / us / 1e3,
                of_copy=1e6 * size / us / report.copy,
            )
        del run
        torch.cuda.empty_cache()


def engine(report, forms, seconds):
    masks = os.environ.get("LEANEDGE_MASKS", "")
    plans = [plan("leank-int4", "int4", kept_channels(masks))]
    steps, behind = (60, 2048) if DEVICE else (8, 200)
    for variant, form in itertools.product(ENGINE, forms):
        if late(seconds):
            return
        choose(variant)  # read when the engine opens
        made = BenchEngine(form, [p["block"] for p in plans], sequences=4)
        try:
            for index, name in enumerate(("dense", "leank-int4")):
                sequences = [made.create(index)]
                fill(made, sequences, behind)
                step = decode(made, sequences, steps)
                made.free(sequences[0])
                report.show(
                    case="batch 1",
                    form=form,
                    plan=name,
                    variant=variant or "as it is",
                    ms=1e3 * step,
                    tokens_s=1 / step,
                )
        finally:
            made.close()


def batch(report, forms, seconds):
    """Steps of several sequences, dense: products of 5 to 32 rows by our own kernel or by cuBLASLt."""
    steps, behind = (24, 2048) if DEVICE else (8, 200)
    for form in forms:
        for variant in BATCH:
            if late(seconds):
                return
            choose(variant)
            made = BenchEngine(form, [], sequences=40)
            try:
                sequences = []
                for count in (8, 16, 24, 32) if DEVICE else (2, 3):
                    more = [made.create(0) for _ in range(count - len(sequences))]
                    fill(made, more, behind)
                    sequences += more
                    step = decode(made, sequences, steps)
                    report.show(
                        case="batch",
                        form=form,
                        rows=count,
                        variant=variant or "as it is",
                        ms=1e3 * step,
                        tokens_s=count / step,
                    )
            finally:
                made.close()


# Forms that no run has compared yet, weights and sequences of the steps that do.
TUNED = (
    ("beside=0", ("q4_0", "fp8"), 1),
    ("merge_together=4", ("q4_0",), 1),
    ("share_min=4096", ("q4_0",), 1),
    ("block_rows=0", ("bf16",), 16),
)


def step_seconds(form, count):
    """Seconds of a step of `count` sequences, dense."""
    made = BenchEngine(form, [], sequences=20)
    try:
        sequences = [made.create(0) for _ in range(count if DEVICE else 2)]
        fill(made, sequences, 2048 if DEVICE else 200)
        return decode(made, sequences, 40 if DEVICE else 8)
    finally:
        made.close()


def tune(report):
    """Which forms are faster than what stands in variants.h, by more than one part in a hundred: into $OUT/tuned."""
    usual, chosen = {}, []
    for variant, forms, count in TUNED:
        ratio = 1.0
        for form in forms:
            for value in ("", variant):
                if value == "" and (form, count) in usual:
                    continue
                choose(value)
                step = step_seconds(form, count)
                report.show(
                    case="tune",
                    form=form,
                    rows=count,
                    variant=value or "as it is",
                    ms=1e3 * step,
                )
                if value == "":
                    usual[form, count] = step
                else:
                    ratio *= step / usual[form, count]
        if ratio < 0.99 ** len(forms):
            chosen.append(variant)
    with open(os.path.join(os.environ.get("OUT", "."), "tuned"), "w") as file:
        file.write(",".join(chosen) + "\n")
    print(f"tuned: {','.join(chosen) or 'as it is'}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=("attention", "matrix", "engine", "batch", "tune"))
    parser.add_argument("--forms", default="q4_0,fp8,bf16" if DEVICE else "q4_0")
    parser.add_argument(
        "--together", type=int, default=1, help="0: without variants whose blocks wait for each other"
    )
    parser.add_argument("--seconds", type=float, default=100.0, help="begin no case later than this")
    arguments = parser.parse_args()
    notes = "`variant`: what LEANEDGE_CUDA_VARIANTS said (gpu-worker/src/kernels/variants.h)."
    report = Report(f"variants-{arguments.part}", "Forms of kernels against each other", notes)
    if arguments.part == "attention":
        attention(report, arguments.together, arguments.seconds)
    elif arguments.part == "matrix":
        matrix(report, arguments.forms.split(","), arguments.seconds)
    elif arguments.part == "tune":
        tune(report)
    elif arguments.part == "batch":
        batch(report, ["bf16"], arguments.seconds)
    else:
        engine(report, arguments.forms.split(","), arguments.seconds)


main()
