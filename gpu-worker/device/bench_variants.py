"""Forms of kernels against each other (gpu-worker/src/kernels/variants.h), so that one run says which becomes the
default. `attention`: decode attention alone where it misses its aims, through the harness; `attention-few`: the same for
few long sequences, all forms that are for them; `matrix`: all products of a
step at batch 1, likewise; `engine`: whole steps; `tune-attention` and `tune`: which forms are faster, for the steps behind
this one. Most telling cases come first. Prints a line a case and keeps variants-PART.json and .md in $OUT up to date.

    python3 bench_variants.py attention|attention-few|matrix|engine|tune-attention|tune [--forms q4_0,fp8,bf16] [--seconds N]"""

import argparse
import os

from engine_bench import DEVICE, BenchEngine, Report, decode, fill, kept_channels, late, plan

LLAMA, QWEN = "llama-3.1-8b", "qwen2.5-7b"
WIDE = ("wide_pairs=0",)
CLUSTERS = ("cluster_pages=0", "cluster_pages=1", "cluster_pages=8")
# Shapes that decode attention is measured at alone: model, mask, storage, batch, tokens; and forms to compare there.
LONG = ((QWEN, True, 0, 1, 131072), (LLAMA, True, 0, 1, 131072))
ATTENTION = (
    (LONG + ((QWEN, True, 0, 8, 32768), (LLAMA, True, 0, 8, 32768), (LLAMA, False, 0, 16, 2048)), WIDE),
    (
        (
            (LLAMA, False, 0, 1, 2048),
            (LLAMA, True, 2, 1, 2048),
            (LLAMA, False, 0, 2, 2048),
            (LLAMA, False, 0, 1, 8192),
            (LLAMA, True, 2, 1, 8192),
        ),
        CLUSTERS,
    ),
    (
        ((LLAMA, True, 3, 1, 131072), (LLAMA, True, 2, 1, 131072), (LLAMA, True, 3, 8, 32768)),
        ("share_min=1024", "share_min=4096", "merge_group=9"),
    ),
)
# Few long sequences: each shape and the forms to compare there.
MERGE = ("merge_group=0", "merge_group=9", "merge_group=18")
FEW = (
    ((LLAMA, True, 3, 1, 131072), MERGE),
    ((LLAMA, True, 2, 1, 131072), MERGE),
    ((LLAMA, True, 1, 1, 131072), MERGE),
    ((QWEN, True, 0, 1, 131072), ("wide_pairs=0", *MERGE)),
    ((LLAMA, True, 3, 8, 32768), MERGE),
    ((QWEN, True, 0, 8, 32768), ("wide_pairs=0", *MERGE)),
)
# Shapes whose blocks leave clock marks (decode_marks.py), with the forms as they are.
FEW_MARKS = tuple((shape, ("",)) for shape, _ in FEW)
MATRIX = ("halves=0", "balance=0", "halves=0,balance=0")
MIB = 1 << 20
# Whole steps: forms to compare, and the (weights, sequences) that they are compared with.
ENGINE = (
    (("halves=0", "balance=0", "halves=0,balance=0"), (("q4_0", 1), ("fp8", 1), ("q4_0", 2))),
    (CLUSTERS, (("q4_0", 1), ("q4_0", 2))),
    (("wide_pairs=0", "share_wide=2048", "share_wide=10240"), (("bf16", 16),)),
    ((f"next_bytes={8 * MIB},next_far_bytes={16 * MIB}", "rotate_early=0"), (("q4_0", 1),)),
)
# What `tune` chooses: of each group the form that is faster than none of them by more than one part in a hundred.
TUNED = (
    (("halves=0", "balance=0", "halves=0,balance=0"), (("q4_0", 1),)),
    (CLUSTERS, (("q4_0", 1),)),
    (("wide_pairs=0",), (("bf16", 16),)),
)
GAIN = 0.99


def choose(*variants):
    """The forms in force from the next engine on (or from harness_variants_read())."""
    os.environ["LEANEDGE_CUDA_VARIANTS"] = ",".join(v for v in variants if v)


def attention_us(bench, shapes, variant):
    """Yields the line of each shape under a form that has been chosen; shapes are prepared once."""
    from harness import library

    library.harness_variants_read()
    for case in shapes:
        bench.timed(case)
        line = bench.lines[-1]
        names = ("model", "mask", "k", "batch", "tokens", "us", "gbs", "of_limit")
        yield {"case": "attention", "variant": variant or "as it is", **{n: line[n] for n in names}}


def prepared(bench, shapes):
    return [bench.prepare(model, mask, k, k, batch, n) for model, mask, k, batch, n in shapes]


def attention(report, arguments):
    from bench import Bench

    bench = Bench(os.environ["LEANEDGE_MASKS"])
    for shapes, variants in ATTENTION:
        for shape in shapes:
            if late(arguments.seconds):
                return
            cases = prepared(bench, (shape,))
            for variant in ("", *variants):
                choose(variant)
                for line in attention_us(bench, cases, variant):
                    report.show(**line)


def attention_few(report, arguments):
    from bench import Bench

    bench = Bench(os.environ["LEANEDGE_MASKS"], report.copy / 1e9)
    for shape, variants in FEW:
        cases = prepared(bench, (shape,))
        for variant in ("", *variants, ""):  # the last one again: what differs from the first is noise
            if late(arguments.seconds):
                return
            choose(variant)
            for line in attention_us(bench, cases, variant):
                report.show(**line)


def matrix(report, arguments):
    import torch
    from bench_matrix import step_products
    from harness import library
    from matrix_harness import Context
    from measure import captured, median_ms

    context = Context()
    for form in arguments.forms.split(","):
        run, size = step_products(context, {"q4_0": "int4", "q8_0": "int8"}.get(form, form), 1)
        for variant in ("", *MATRIX, ""):  # the last one again: what differs from the first is noise
            if late(arguments.seconds):
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


def steps(report, form, count, *variants):
    """Seconds of a step of `count` sequences under the dense plan and under the mask with int4 pages, behind 2,048 tokens."""
    choose(*variants)  # read when the engine opens
    plans = [plan("leank-int4", "int4", kept_channels(os.environ.get("LEANEDGE_MASKS", "")))]
    made = BenchEngine(form, [p["block"] for p in plans], sequences=20)
    try:
        taken = []
        for index, name in enumerate(("dense", "leank-int4")):
            sequences = [made.create(index) for _ in range(count if DEVICE else min(count, 2))]
            fill(made, sequences, 2048 if DEVICE else 200)
            taken.append(decode(made, sequences, 40 if DEVICE else 8))
            for sequence in sequences:
                made.free(sequence)
            report.show(
                case="step",
                form=form,
                rows=count,
                plan=name,
                variant=",".join(v for v in variants if v) or "as it is",
                ms=1e3 * taken[-1],
                tokens_s=count / taken[-1],
            )
        return taken
    finally:
        made.close()


def engine(report, arguments):
    forms = arguments.forms.split(",")
    for variants, cases in ENGINE:
        for form, count in cases:
            for variant in ("", *variants):
                if late(arguments.seconds):
                    return
                if form in forms:
                    steps(report, form, count, variant)


def product(values):
    result = 1.0
    for value in values:
        result *= value
    return result


def right(variants):
    """Those variants whose values check-forms did not find to be wrong."""
    path = os.path.join(os.environ.get("OUT", "."), "wrong-forms")
    wrong = open(path).read().split() if os.path.exists(path) else []
    return [v for v in variants if not any(name + "=" in v for name in wrong)]


def best_of(variants, measure, before):
    """The variant whose times are less than those of none by a part in a hundred each, in the mean; None: no such one.
    `before`: what is chosen already."""
    variants = right(variants)
    if not variants:
        return None
    usual = measure(*before)
    ratios = {v: product(t / u for t, u in zip(measure(*before, v), usual)) for v in variants}
    best = min(ratios, key=ratios.get)
    return best if ratios[best] < GAIN ** len(usual) else None


def tuned_file():
    return os.path.join(os.environ.get("OUT", "."), "tuned")


def keep_tuned(chosen):
    with open(tuned_file(), "w") as file:
        file.write(",".join(chosen) + "\n")
    print(f"tuned: {','.join(chosen) or 'as it is'}", flush=True)


def tune_attention(report, arguments):
    """Long zones of one sequence, through the harness: begins $OUT/tuned."""
    from bench import Bench

    bench = Bench(os.environ["LEANEDGE_MASKS"])
    cases = prepared(bench, LONG)

    def measure(*variants):
        choose(*variants)
        lines = list(attention_us(bench, cases, ",".join(variants)))
        for line in lines:
            report.show(**line)
        return [line["us"] for line in lines]

    best = best_of(WIDE, measure, ())
    keep_tuned([best] if best else [])


def tune(report, arguments):
    """Whole steps: goes on with $OUT/tuned."""
    chosen = []
    if os.path.exists(tuned_file()):
        chosen = [v for v in open(tuned_file()).read().strip().split(",") if v]
    for variants, cases in TUNED:

        def measure(*chosen_ones, cases=cases):
            return [t for form, count in cases for t in steps(report, form, count, *chosen_ones)]

        # Two groups may set the same value: the later one would hide the earlier.
        names = {v.split("=")[0] for v in chosen}
        free = [v for v in variants if not names & {w.split("=")[0] for w in v.split(",")}]
        best = best_of(free, measure, chosen)
        if best:
            chosen += best.split(",")
    keep_tuned(chosen)


PARTS = {
    "attention": attention,
    "attention-few": attention_few,
    "matrix": matrix,
    "engine": engine,
    "tune-attention": tune_attention,
    "tune": tune,
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--forms", default="q4_0,fp8,bf16" if DEVICE else "q4_0,bf16")
    parser.add_argument("--seconds", type=float, default=100.0, help="begin no case later than this")
    arguments = parser.parse_args()
    notes = "`variant`: what LEANEDGE_CUDA_VARIANTS said (gpu-worker/src/kernels/variants.h)."
    report = Report(f"variants-{arguments.part}", "Forms of kernels against each other", notes)
    PARTS[arguments.part](report, arguments)


if __name__ == "__main__":
    main()
