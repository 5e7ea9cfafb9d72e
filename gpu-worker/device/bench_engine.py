"""Speed of the whole CUDA engine with an 8B Llama's shape and random weights: decode at several batches
behind 2,048 tokens each, prompts, page flush, against the limits that this run's copy and bf16 product rates
set. Prints a line a case and keeps engine.json and engine.md in $OUT up to date.

    python3 bench_engine.py [--forms bf16,fp8,q4_0,q8_0] [--batches 1,16,64] [--prompts 8192,32768]
        [--masks FOLDER] [--steps N] [--seconds N] [--profile]"""

import argparse

import numpy as np
import torch

from engine_bench import (
    DEVICE,
    SHAPE,
    BenchEngine,
    Report,
    decode,
    fill,
    late,
    measure_forms,
    zone_bytes,
)

BEHIND = 2048 if DEVICE else 256  # tokens behind each sequence that decodes
NOTES = (
    "`of_limit`: share of the time that reading weights and cache once at the copy rate takes; `of_product`: of "
    "the bf16 product rate, counting what must be computed (behind attention of the last layer only one row goes on)."
)


def profile(run, steps):
    """Where the time of `steps` calls goes on the device, kernel by kernel."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(steps):
            run()
        torch.cuda.synchronize()
    found = [(e.self_device_time_total, e.count, e.key) for e in profiler.key_averages()]
    for total, count, name in sorted(found, reverse=True)[:16]:
        short = name.replace("leanedge::cuda::", "").replace("(anonymous namespace)::", "")
        print(f"  {total / steps:9.1f} us {count / steps:7.1f} x {short[:90]}", flush=True)
    kernels = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    kernels.sort(key=lambda e: e.time_range.start)
    # Launches overlap: what counts is how far each one moves the end of all.
    end = kernels[0].time_range.start if kernels else 0
    middle = len(kernels) // 2
    for i, e in enumerate(kernels):
        if middle <= i < middle + 14:
            begin, moved = e.time_range.start - end, max(e.time_range.end - end, 0)
            name = e.name.replace("leanedge::", "").replace("cuda::", "")
            print(
                f"  begins {begin:7.2f} us behind the end so far, moves it by {moved:7.2f}: {name[:60]}"
            )
        end = max(end, e.time_range.end)


def flush_share(engine, index, batch, steps=32):
    """Microseconds a step that page_flush takes, and the share of the device's busy time; sequences of all
    lengths modulo a page, so that each step packs about batch / 32 pages."""
    rng = np.random.default_rng(6)
    sequences = []
    for i in range(batch):
        sequence = engine.create(index)
        engine.append(sequence, rng.integers(0, SHAPE.vocab_size, BEHIND + i % 32))
        engine.run(sequence)
        sequences.append(sequence)
    for _ in range(3):
        engine.step(sequences)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(steps):
            engine.step(sequences)
        torch.cuda.synchronize()
    total = flush = 0.0
    launches = 0
    for e in profiler.key_averages():
        total += e.self_device_time_total
        if "flush" in e.key:
            flush += e.self_device_time_total
            launches += e.count
    for sequence in sequences:
        engine.free(sequence)
    return {
        "flush_us": flush / steps,
        "busy_us": total / steps,
        "launches": launches,
        "share": flush / max(total, 1e-9),
    }


def prompt_flops(tokens):
    """Of the last layer q, k and v alone: behind these only the last row goes on."""
    c = SHAPE
    qkv = c.dim * (c.heads + 2 * c.kv_heads) * c.head_dim
    rest = c.dim * (c.heads * c.head_dim + 3 * c.ff_dim)
    products = 2 * (c.layers * qkv + (c.layers - 1) * rest) * tokens
    return products + 2 * (c.layers - 1) * c.heads * c.head_dim * tokens**2


def decode_cases(engine, report, form, index, name, page, arguments):
    batches = [int(b) for b in arguments.batches.split(",")] if form == "bf16" else [1]
    row = engine.stats()["weight_bytes_row"]
    sequences, seconds = [], 0.0
    for batch in batches:
        if late(arguments.seconds):
            break
        more = [engine.create(index) for _ in range(batch - len(sequences))]
        seconds += fill(engine, more, BEHIND)
        sequences += more
        step = decode(engine, sequences, arguments.steps)
        read = row + batch * zone_bytes(engine, page, BEHIND + arguments.steps // 2)
        report.show(
            case="decode",
            form=form,
            plan=name,
            batch=batch,
            ms=step * 1e3,
            tokens_s=batch / step,
            of_limit=read / report.copy / step,
        )
        if arguments.profile:
            profile(lambda: engine.step(sequences), 4)
    if sequences:
        report.show(
            case="fill",
            form=form,
            plan=name,
            prompts=len(sequences),
            tokens_s=BEHIND * len(sequences) / seconds,
        )
    for sequence in sequences:
        engine.free(sequence)


def prompt_cases(engine, report, form, index, name, arguments):
    for tokens in [int(t) for t in arguments.prompts.split(",") if t]:
        if late(arguments.seconds):
            return
        sequence = engine.create(index)
        if arguments.profile:
            profile(lambda: fill(engine, [sequence], 4096), 1)
            engine.truncate(sequence, 0)
        seconds = fill(engine, [sequence], tokens)
        engine.free(sequence)
        flops = prompt_flops(tokens)
        report.show(
            case="prompt",
            form=form,
            plan=name,
            tokens=tokens,
            seconds=seconds,
            tokens_s=tokens / seconds,
            tflops=flops / seconds / 1e12,
            of_product=flops / seconds / report.product,
        )


def turn_cases(engine, report, index, name, arguments):
    """A short turn behind a long history: what its prompt costs."""
    history, turn = (32768, 128) if DEVICE else (256, 16)
    if late(arguments.seconds):
        return
    sequence = engine.create(index)
    fill(engine, [sequence], history)
    times = [fill(engine, [sequence], turn) for _ in range(4)]
    engine.free(sequence)
    report.show(case="turn", plan=name, behind=history, tokens=turn, ms=1e3 * min(times))


def measure(report, form, plans, arguments):
    engine = BenchEngine(form, [p["block"] for p in plans[1:]], sequences=80)
    stats = engine.stats()
    report.show(case="load", form=form, seconds=engine.load_seconds, gb=stats["weight_bytes"] / 1e9)
    try:
        for index, page in enumerate(plans):
            decode_cases(engine, report, form, index, page["name"], page, arguments)
            if form != "bf16":
                continue
            prompt_cases(engine, report, form, index, page["name"], arguments)
            turn_cases(engine, report, index, page["name"], arguments)
        if DEVICE and form == "bf16" and len(plans) > 1 and not late(arguments.seconds):
            report.show(case="flush", plan=plans[1]["name"], batch=64, **flush_share(engine, 1, 64))
    finally:
        engine.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--forms", default="bf16,fp8,q4_0,q8_0")
    parser.add_argument("--batches", default="1,16,64" if DEVICE else "1,3")
    parser.add_argument("--prompts", default="8192,32768" if DEVICE else "300")
    parser.add_argument("--masks", default="")
    parser.add_argument("--steps", type=int, default=40 if DEVICE else 8)
    parser.add_argument(
        "--seconds", type=float, default=150.0, help="begin no case later than this"
    )
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    report = Report("engine", "The CUDA engine, 8B Llama geometry, random weights", NOTES)
    measure_forms(report, measure, arguments)


main()
