"""Forms of kernels against each other (gpu-worker/src/kernels/variants.h), so that one run says which becomes the
default. `attention`: decode attention alone where it misses its aims, through the harness; `engine`: whole steps at
batch 1 behind 2,048 tokens. Prints a line a case and keeps variants-attention.json or variants-engine.json, and .md, in
$OUT up to date.

    python3 bench_variants.py attention|engine [--forms q4_0,bf16] [--seconds N]"""

import argparse
import os

from engine_bench import DEVICE, BenchEngine, Report, decode, fill, kept_channels, late, plan

ATTENTION = (
    "",
    "share_min=1024",
    "share_min=2048",
    "share_min=4096",
    "merge_group=8",
    "merge_group=16",
    "share_min=2048,merge_group=8",
)
ENGINE = (
    "",
    "share_min=2048",
    "share_min=4096,merge_group=8",
    "prefetch_bytes=8388608",
    "prefetch_bytes=16777216",
    "prefetch_bytes=33554432",
    "share_min=2048,merge_group=8,prefetch_bytes=16777216",
    "",  # again: what differs from the first is noise
)
# Model, mask, storage, batch, tokens: those that miss.
SHAPES = (
    ("llama-3.1-8b", True, 0, 1, 131072),
    ("llama-3.1-8b", True, 1, 1, 131072),
    ("llama-3.1-8b", True, 2, 1, 131072),
    ("llama-3.1-8b", True, 3, 1, 131072),
    ("llama-3.1-8b", True, 3, 8, 32768),
    ("llama-3.1-8b", False, 0, 1, 2048),
    ("llama-3.1-8b", True, 2, 1, 2048),
    ("llama-3.1-8b", True, 2, 64, 8192),
    ("qwen2.5-7b", True, 0, 1, 131072),
    ("qwen2.5-7b", True, 0, 8, 32768),
)


def choose(variant):
    os.environ["LEANEDGE_CUDA_VARIANTS"] = variant


def attention(report, seconds):
    from bench import Bench
    from harness import library

    bench = Bench(os.environ["LEANEDGE_MASKS"])
    for shape in SHAPES:
        model, mask, storage, batch, tokens = shape
        for variant in ATTENTION:
            if late(seconds):
                return
            choose(variant)
            library.harness_variants_read()
            bench.measure(model, mask, storage, storage, batch, tokens)
            line = bench.lines[-1]
            names = ("model", "mask", "k", "batch", "tokens", "us", "of_limit")
            report.show(case="attention", variant=variant or "as it is", **{n: line[n] for n in names})


def engine(report, forms, seconds):
    masks = os.environ.get("LEANEDGE_MASKS", "")
    plans = [plan("leank-int4", "int4", kept_channels(masks))]
    steps, behind = (60, 2048) if DEVICE else (8, 200)
    for form in forms:
        for variant in ENGINE:
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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=("attention", "engine"))
    parser.add_argument("--forms", default="q4_0,bf16" if DEVICE else "q4_0")
    parser.add_argument("--seconds", type=float, default=100.0, help="begin no case later than this")
    arguments = parser.parse_args()
    notes = "`variant`: what LEANEDGE_CUDA_VARIANTS said (gpu-worker/src/kernels/variants.h)."
    report = Report(f"variants-{arguments.part}", "Forms of kernels against each other", notes)
    if arguments.part == "attention":
        attention(report, arguments.seconds)
    else:
        engine(report, arguments.forms.split(","), arguments.seconds)


main()
