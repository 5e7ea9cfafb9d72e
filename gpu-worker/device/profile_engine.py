"""Where the time of a step goes on the device, with an 8B Llama's shape and random weights: every microsecond from the first
kernel's beginning to the last one's end belongs to the kernel that moves the end of all by it, or to nobody ("idle"), since
launches overlap. Prints a line a kernel and keeps profile.json and profile.md in $OUT up to date.

    python3 profile_engine.py [--forms q4_0,bf16,fp8] [--masks FOLDER] [--prompts 8192] [--seconds N]"""

import argparse

import torch

from engine_bench import DEVICE, BenchEngine, Report, decode, fill, late, measure_forms

BEHIND = 2048 if DEVICE else 200
ROWS_SHOWN = 14  # kernels of a case, those that take longest
NOTES = (
    "`us`: a step's time that a kernel adds to it, under the profiler; `alone_us`: what its launches take from beginning to end, "
    "overlaps counted twice; `count`: launches a step. `host` is what a step takes beyond the device's span."
)


def short(name):
    for word in ("leanedge::cuda::", "(anonymous namespace)::", "leanedge::", "void "):
        name = name.replace(word, "")
    return name.split("(", 1)[0][:70].replace("|", "/")


def spans(run, steps):
    """(begin, end, name) in microseconds of all that `steps` calls ran on the device, in order."""
    activities = [torch.profiler.ProfilerActivity.CUDA] if DEVICE else []
    if not activities:
        for _ in range(steps):
            run()
        return []
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(steps):
            run()
        torch.cuda.synchronize()
    on_device = torch.autograd.DeviceType.CUDA
    found = [
        (e.time_range.start, e.time_range.end, short(e.name))
        for e in profiler.events()
        if e.device_type == on_device
    ]
    return sorted(found)


def shares(found):
    """By name: microseconds that it moves the end of all by, those that it runs, launches. "idle": when nothing runs."""
    out = {}
    end = found[0][0] if found else 0.0
    for begin, stop, name in found:
        if begin > end:
            idle = out.setdefault("idle", [0.0, 0.0, 0])
            idle[0] += begin - end
            idle[2] += 1
            end = begin
        line = out.setdefault(name, [0.0, 0.0, 0])
        line[0] += max(stop - end, 0.0)
        line[1] += stop - begin
        line[2] += 1
        end = max(end, stop)
    return out


def show(report, case, run, steps, wall_us):
    run()
    found = spans(run, steps)
    by_name = shares(found)
    total = sum(line[0] for line in by_name.values())
    report.show(
        case="step",
        what=case,
        wall_us=wall_us,
        device_us=total / steps,
        host=wall_us - total / steps,
    )
    order = sorted(by_name.items(), key=lambda item: -item[1][0])
    for name, (moved, alone, count) in order[:ROWS_SHOWN]:
        report.show(
            case=case,
            us=moved / steps,
            share=moved / max(total, 1e-9),
            alone_us=alone / steps,
            count=count / steps,
            each_us=moved / count,
            kernel=name,
        )


def decode_profile(engine, report, form, index, name, batch):
    sequences = [engine.create(index) for _ in range(batch)]
    try:
        fill(engine, sequences, BEHIND)
        wall = 1e6 * decode(engine, sequences, 16 if DEVICE else 8)
        # Steps without a page that fills would differ from those with one: 32 of them have all.
        show(
            report,
            f"{form} {name} batch {batch}",
            lambda: engine.step(sequences),
            32 if batch == 1 else 8,
            wall,
        )
    finally:
        for sequence in sequences:
            engine.free(sequence)


def prompt_profile(engine, report, form, index, name, tokens):
    sequence = engine.create(index)
    try:
        fill(engine, [sequence], tokens)
        engine.truncate(sequence, 0)
        wall = 1e6 * fill(engine, [sequence], tokens)

        def again():
            engine.truncate(sequence, 0)
            fill(engine, [sequence], tokens)

        show(report, f"{form} {name} prompt {tokens}", again, 1, wall)
    finally:
        engine.free(sequence)


def cases(form, plans, prompts):
    """(name, what runs it) of all that is profiled with one form of weights; a run takes engine and report."""
    batches = (1, 16, 64) if form == "bf16" and DEVICE else (1,)
    for batch in batches:
        for index, p in enumerate(plans):
            yield (
                f"{form} {p['name']} batch {batch}",
                lambda e, r, i=index, n=p["name"], b=batch: decode_profile(e, r, form, i, n, b),
            )
    if form != "bf16" and DEVICE:
        return
    for tokens in prompts:
        for index, p in enumerate(plans):
            yield (
                f"{form} {p['name']} prompt {tokens}",
                lambda e, r, i=index, n=p["name"], t=tokens: prompt_profile(e, r, form, i, n, t),
            )


def measure(report, form, plans, arguments):
    engine = BenchEngine(form, [p["block"] for p in plans[1:]], sequences=72)
    try:
        for name, run in cases(form, plans, [int(t) for t in arguments.prompts.split(",") if t]):
            if late(arguments.seconds):
                report.show(case="left out", what=name)
                continue
            try:
                run(engine, report)
            except Exception as error:  # the next case may still be measured
                report.failed(name, error)
    finally:
        engine.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--forms", default="q4_0,bf16,fp8" if DEVICE else "q4_0")
    parser.add_argument("--masks", default="")
    parser.add_argument("--prompts", default="8192" if DEVICE else "300")
    parser.add_argument("--seconds", type=float, default=90.0, help="begin no case later than this")
    arguments = parser.parse_args()
    report = Report("profile", "Where a step's time goes, 8B Llama geometry, random weights", NOTES)
    measure_forms(report, measure, arguments)


main()
