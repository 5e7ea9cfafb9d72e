"""What a compressed cache is for, with an 8B Llama's shape and random weights: sessions of 32,768 tokens that one card
holds and decodes together, mask and int4 against dense f16; and the published end-to-end case, 4,096 tokens of
prompt and 127 of answer at batch 52 and 64 with 6 sink and 250 recent tokens. Prints a line a case and keeps
sessions.json and sessions.md in $OUT up to date.

    python3 bench_sessions.py --masks FOLDER [--parts published,resident] [--batches 52,64] [--seconds N]"""

import argparse
import time

import numpy as np
import torch

from engine_bench import DEVICE, SHAPE, BenchEngine, Report, decode, fill, kept_channels, late, plan

# Seconds and GB of the publication, on its own card: whole batch, prompt and answer together.
PUBLISHED = {
    ("dense", 52): (47.27, 64.64),
    ("leank", 52): (38.32, 57.27),
    ("leank", 64): (47.62, 67.03),
}
PROMPT, ANSWER = (4096, 127) if DEVICE else (200, 5)
RESIDENT = 32768 if DEVICE else 300
NOTES = (
    "published: seconds from the first prompt row to the last of 127 tokens of every sequence; `gb` is weights, scratch and the "
    "cache in use at the end; the publication's own figures stand beside it. resident: sessions of 32,768 tokens of which "
    "each has a cache of its own (one is read, the others are restored from its snapshot), decoded together."
)


def used_gb(engine):
    stats = engine.stats()
    used = (
        stats["weight_bytes"]
        + stats["scratch_bytes"]
        + stats["cache_bytes"]
        - stats["cache_bytes_free"]
    )
    return used / 1e9


def published(engine, report, index, name, batch):
    sequences = [engine.create(index) for _ in range(batch)]
    try:
        begin = time.perf_counter()
        prompt = fill(engine, sequences, PROMPT)  # draws the first token of each
        for _ in range(ANSWER - 1):
            bad = [r.status for r in engine.step(sequences) if r.status != 0]
            if bad:
                raise RuntimeError(f"a step gave status {bad[0]}: {engine.error()[1]}")
        seconds = time.perf_counter() - begin
        told = PUBLISHED.get((name.split("-")[0], batch), ("", ""))
        report.show(
            case="published",
            plan=name,
            batch=batch,
            seconds=seconds,
            published_seconds=told[0],
            tokens_s=ANSWER * batch / seconds,
            prompt_seconds=prompt,
            decode_ms=1e3 * (seconds - prompt) / (ANSWER - 1),
            gb=used_gb(engine),
            published_gb=told[1],
        )
    finally:
        for sequence in sequences:
            engine.free(sequence)


def resident(engine, report, index, name, most, steps):
    """As many sessions as fit, then steps of all of them. The number of sessions; 0 if none fits."""
    first = engine.create(index)
    sequences = [first]
    try:
        begin = time.perf_counter()
        fill(engine, sequences, RESIDENT)
        reading = time.perf_counter() - begin
        one = engine.stats(first)["cache_bytes"]
        # A session grows while it decodes: each gets room for a page and what its sink and ring take.
        room = engine.stats()["cache_bytes_free"] // (
            engine.library.le_plan_sequence_bytes(index, RESIDENT + 64) or 1
        )
        count = min(most, 1 + room)
        data = engine.snapshot(first)
        begin = time.perf_counter()
        while len(sequences) < count:
            sequences.append(engine.restore(index, data, 64 << 20))
        restoring = time.perf_counter() - begin
        step = decode(engine, sequences, steps)
        report.show(
            case="resident",
            plan=name,
            tokens=RESIDENT,
            sessions=count,
            mb_each=one / 1e6,
            gb=used_gb(engine),
            ms=1e3 * step,
            tokens_s=count / step,
            read_seconds=reading,
            restore_seconds=restoring / max(1, count - 1),
        )
        return count
    finally:
        for sequence in sequences:
            engine.free(sequence)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--masks", default="")
    parser.add_argument("--parts", default="resident,published")
    parser.add_argument("--batches", default="52,64" if DEVICE else "2,3")
    parser.add_argument(
        "--sessions", type=int, default=128 if DEVICE else 4, help="most sessions at once"
    )
    parser.add_argument("--steps", type=int, default=24 if DEVICE else 8)
    parser.add_argument(
        "--seconds", type=float, default=200.0, help="begin no case later than this"
    )
    arguments = parser.parse_args()
    np.random.seed(1)
    kept = kept_channels(arguments.masks)
    report = Report("sessions", "Sessions on one card, 8B Llama geometry, random weights", NOTES)
    plans = [
        plan("dense"),
        plan("leank-int4", "int4", kept),
        plan("dense-6-250", sink=6, recent=250),
        plan("leank-6-250", channels=kept, sink=6, recent=250),
        plan("leank-int4-6-250", "int4", kept, sink=6, recent=250),
    ]
    engine = BenchEngine("bf16", [p["block"] for p in plans[1:]], sequences=arguments.sessions)
    report.show(case="load", seconds=engine.load_seconds, gb=engine.stats()["weight_bytes"] / 1e9)
    parts = arguments.parts.split(",")
    counts = {}
    cases = []
    if "resident" in parts:
        for index in (0, 1):
            name = plans[index]["name"]
            cases.append(
                (
                    f"resident {name}",
                    lambda i=index, n=name: counts.update(
                        {n: resident(engine, report, i, n, arguments.sessions, arguments.steps)}
                    ),
                )
            )
    if "published" in parts:
        for index in (2, 3, 4):
            for batch in [int(b) for b in arguments.batches.split(",")]:
                name = plans[index]["name"]
                cases.append(
                    (
                        f"published {name} {batch}",
                        lambda i=index, n=name, b=batch: published(engine, report, i, n, b),
                    )
                )
    for name, run in cases:
        if late(arguments.seconds):
            report.show(case="left out", what=name)
            continue
        try:
            run()
        except Exception as error:  # the next case may still be measured
            report.failed(name, error)
    if len(counts) == 2:
        report.show(case="times as many sessions", ratio=counts["leank-int4"] / counts["dense"])
    engine.close()


main()
