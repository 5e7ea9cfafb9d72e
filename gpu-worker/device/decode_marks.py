"""Where the time of decode attention goes: the clock marks that its thread blocks leave
(gpu-worker/src/kernels/clock_marks.h), summed up over the layers of a model. LEANEDGE_CUDA_LIBRARY names
libleanedge_cuda_marks.so (scripts/build-cuda.sh --marks). Times are microseconds from the end of the launch before.

Prints, for each case and form: percentiles over blocks of each mark; then, by wave (of shares, one a
multiprocessor), by age (order in which the blocks of a multiprocessor began) and by slot (order of their places there),
and of blocks that read hardly more than full rows (1) and the others (0): when pages are done, and pages a microsecond. `leave`: from the last page to the part, of each block; `merge`: the longest
merge of each launch; `busy`: share of the launch in which a block reads pages, in the mean. Writes decode-marks.json into $OUT.

    python3 decode_marks.py [--seconds N]"""

import argparse
import ctypes
import json
import os
import time

import numpy as np
import torch
from bench import Bench
from bench_variants import FEW_MARKS, choose, prepared
from harness import library

MARKS = 16
START, QUERY, PAGES, PART, END, PLACE, COUNT, START_NS, WARP, END_NS, WAIT = (*range(9), 12, 13)


def sheets(case, grids):
    """(launches, blocks of the largest grid, MARKS) of one replay of a case's graph, after three that warm up."""
    run = case["run"]
    marks = torch.zeros((sum(grids), MARKS), dtype=torch.int64, device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
    torch.cuda.synchronize()
    library.harness_decode_marks(ctypes.c_void_p(marks.data_ptr()))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    library.harness_decode_marks(ctypes.c_void_p(0))
    for _ in range(4):
        graph.replay()
    torch.cuda.synchronize()
    out = np.zeros((len(grids), max(grids), MARKS), dtype=np.int64)
    for launch, of in enumerate(np.split(marks.cpu().numpy(), np.cumsum(grids)[:-1])):
        out[launch, : len(of)] = of
    return out


def aligned(all_marks):
    """All clocks in microseconds of one time. Blocks that had nothing to do are NaN."""
    idle = all_marks[..., START_NS] == 0
    place = all_marks[..., PLACE] & 0xFFFF
    times = all_marks.astype(np.float64)
    begin_ns = all_marks[..., START_NS][~idle].min()
    clock = all_marks[..., START]
    out = np.full(times.shape, np.nan)
    for processor in np.unique(place[~idle]):
        here = (place == processor) & ~idle
        first = clock[here].min()
        ticks = np.concatenate([(all_marks[..., m][here] - first) for m in (START, END)]).astype(float)
        ns = np.concatenate([(all_marks[..., m][here] - begin_ns) for m in (START_NS, END_NS)]).astype(float)
        slope, offset = np.polyfit(ticks, ns, 1)
        for mark in (START, QUERY, PAGES, PART, END, WAIT, *range(WARP, WARP + 4)):
            out[..., mark][here] = (slope * (all_marks[..., mark][here] - first) + offset) / 1e3
    return out, place, idle


def ranks(values, place, idle):
    """Of each block among those of its multiprocessor, by a value."""
    out = np.full(values.shape, -1)
    for processor in np.unique(place[~idle]):
        here = np.flatnonzero((place == processor) & ~idle)
        out[here[np.argsort(values[here], kind="stable")]] = np.arange(len(here))
    return out


def percentiles(values):
    return [round(float(x), 2) for x in np.percentile(values, (0, 10, 50, 90, 100))]


def summed_up(case, grids, processors):
    raw = sheets(case, grids)
    times, place, idle = aligned(raw)
    marks = {name: [] for name in ("start", "wait", "query", "pages", "part", "end")}
    leave, merge = [], []
    by = {name: {} for name in ("wave", "age", "slot", "full rows")}
    spread, warps, lengths, alike = [], [], [], []
    for launch in range(1, len(raw)):
        t, here, off = times[launch], place[launch], idle[launch]
        t = t - np.nanmin(t[:, WAIT])
        work = ~off
        for name, mark in zip(marks, (START, WAIT, QUERY, PAGES, PART, END)):
            marks[name] += list(t[work, mark])
        leave += list(t[work, PART] - t[work, PAGES])
        merge.append(np.max(t[work, END] - t[work, PART]))
        lengths.append(np.nanmax(t[work, END]))
        orders = {
            "wave": (raw[launch, :, PLACE] >> 32) // processors,
            "age": ranks(t[:, START], here, off),
            "slot": ranks((raw[launch, :, PLACE] >> 16 & 0xFFFF).astype(float), here, off),
        }
        alike.append(float((orders["wave"] == orders["age"])[work].mean()))
        pages = raw[launch, :, COUNT]
        orders["full rows"] = (pages < np.median(pages[work]) / 2).astype(int)
        rate = raw[launch, :, COUNT] / (t[:, PAGES] - t[:, QUERY])
        for name, order in orders.items():
            for rank in np.unique(order[work]):
                chosen = work & (order == rank)
                kept = by[name].setdefault(int(rank), ([], []))
                kept[0].extend(t[chosen, PAGES])
                kept[1].extend(rate[chosen])
        for processor in np.unique(here[work]):
            done = t[work & (here == processor), PAGES]
            spread.append(done.max() - done.min())
        used = [m for m in range(WARP, WARP + 4) if (raw[launch][work, m] > 0).all()]
        warps += list(t[work][:, used].max(axis=1) - t[work][:, used].min(axis=1))
    last = float(np.mean(lengths))
    busy = float(np.mean(np.array(marks["pages"]))) / last
    line = {
        **{name: percentiles(values) for name, values in marks.items()},
        "leave": percentiles(leave),
        "merge": percentiles(merge),
        "launch": round(last, 2),
        "busy": round(busy, 3),
        "spread_of_a_multiprocessor": percentiles(spread),
        "spread_of_a_blocks_warps": percentiles(warps),
        "wave_is_age": round(float(np.mean(alike)), 3),
        "by": {
            name: {
                rank: {
                    "blocks": len(done),
                    "done": percentiles(done),
                    "pages_us": round(float(np.mean(rates)), 3),
                }
                for rank, (done, rates) in sorted(of.items())
            }
            for name, of in by.items()
        },
    }
    return line


def show(line):
    print(f"\n{line['case']} {line['variant']}: launch {line['launch']} us, busy {line['busy']}", flush=True)
    for name in ("start", "wait", "query", "pages", "part", "end", "leave", "merge"):
        print(f"  {name:6} {line[name]}")
    print(f"  spread of a multiprocessor's blocks {line['spread_of_a_multiprocessor']}", end=", ")
    print(f"of a block's warps {line['spread_of_a_blocks_warps']}, wave is age {line['wave_is_age']}")
    for name, of in line["by"].items():
        for rank, x in of.items():
            print(f"  {name} {rank}: {x['blocks']} blocks, done {x['done']}, {x['pages_us']} pages/us", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0, help="begin no case later than this")
    arguments = parser.parse_args()
    begun = time.monotonic()
    bench = Bench(os.environ["LEANEDGE_MASKS"], rate=3000.0)
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    lines = []
    for shape, variants in FEW_MARKS:
        (case,) = prepared(bench, (shape,))
        model, _, k, batch, tokens = shape
        wide = k == 0 and batch * case["kv_heads"] <= 128
        grids = [processors * (1 if wide else blocks) for blocks, *_ in case["shapes"]]
        for variant in variants:
            if time.monotonic() - begun > arguments.seconds:
                return
            choose(variant)
            library.harness_variants_read()
            line = summed_up(case, grids, processors)
            name = f"{model} {case['line']['k']} {batch} x {tokens}"
            lines.append({"case": name, "variant": variant or "as it is", **line})
            show(lines[-1])
            with open(os.path.join(os.environ.get("OUT", "."), "decode-marks.json"), "w") as file:
                json.dump(lines, file, indent=1)


if __name__ == "__main__":
    main()
