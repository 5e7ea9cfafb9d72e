"""Decode attention at the geometry of published models against cuDNN and against the byte limit: the
time in which a device copy would move as many bytes as the zones must be read. Medians over CUDA-graph
replays of all layers of a model; every layer reads other memory than the one before it, far more in all
than the cache holds. Writes decode-attention.json and a Markdown table into $OUT."""

import ctypes
import json
import os
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness import (
    SLOTS,
    STORAGES,
    Layer,
    Plan,
    Step,
    archive_pages,
    flush_jobs,
    library,
    pointer,
    scratch,
)
from measure import captured, copy_rate, head_line, median_ms, result_head, write_results

SHAPES = ((1, 131072), (8, 32768), (32, 16384), (64, 8192))
MODELS = {
    "llama-3.1-8b": ("llama-3.1-8b-instruct.leank.json", 32),
    "qwen2.5-7b": ("qwen2.5-7b-instruct.leank.json", 28),
}
DIM, SINK, RECENT = 128, 16, 112
ARENA_BYTES = 12 << 30


def cudnn_us(batch, tokens, heads, kv_heads):
    """cuDNN's dense decode attention in f16, one layer; K and V rotate among buffers of 6 GB in all."""
    size = batch * kv_heads * tokens * DIM * 4
    count = max(2, min(8, (6 << 30) // size))
    pairs = [
        [
            torch.randn((batch, kv_heads, tokens, DIM), device="cuda", dtype=torch.float16)
            for _ in range(2)
        ]
        for _ in range(count)
    ]
    q = torch.randn((batch, heads, 1, DIM), device="cuda", dtype=torch.float16)

    def run():
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            for k, v in pairs:
                torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    time = median_ms(captured(run)) * 1000 / count
    return time


class Bench:
    def __init__(self, masks, rate=None):
        """`rate`: GB/s of a device copy, measured where none is given."""
        self.masks = masks
        # f16 values that make sense as values, scales and minima alike; as codes any bits do.
        self.arena = torch.empty(ARENA_BYTES // 2, dtype=torch.float16, device="cuda")
        for part in self.arena.split(1 << 28):
            part.copy_(torch.randn(part.numel(), device="cuda") * 0.05)
        self.rate = rate or copy_rate(4 << 30)
        self.cudnn = {}
        self.lines = []
        self.flushes = []

    def layers(self, model, mask, k, v):
        kept = json.load(open(os.path.join(self.masks, MODELS[model][0])))["kept"]
        if not mask:
            kept = [[list(range(DIM))] * len(layer) for layer in kept]
        plan = Plan(kept, DIM, SINK, RECENT, k, v)
        return plan, [Layer(plan, l, MODELS[model][1]) for l in range(plan.layers)]

    def measure(self, model, mask, k, v, batch, tokens):
        self.timed(self.prepare(model, mask, k, v, batch, tokens))

    def prepare(self, model, mask, k, v, batch, tokens):
        """A case: what launches all layers, their results, and the line that timed() completes."""
        plan, layers = self.layers(model, mask, k, v)
        heads, kv_heads = MODELS[model][1], plan.kv_heads
        pages = archive_pages(tokens, SINK, RECENT)
        full = tokens - 32 * pages
        rows_bytes = full * DIM * 4
        zone_layer = batch * kv_heads * full * DIM * 2
        zones = self.arena[: zone_layer * 4]  # layers share four sets of full rows
        order = torch.randperm(batch * pages, device="cuda", dtype=torch.int64).to(torch.int32)
        step = Step(
            [
                (
                    [
                        (
                            zones.data_ptr() + 2 * kv_heads * full * DIM * i,
                            zones.data_ptr() + 2 * kv_heads * full * DIM * (batch + i),
                            full,
                            full,
                        )
                    ],
                    order.data_ptr() + 4 * pages * i,
                    pages,
                )
                for i in range(batch)
            ]
        )
        q = torch.randn((batch, heads, DIM), device="cuda")
        out = torch.empty_like(q)
        work = scratch(batch, kv_heads, DIM)
        places, at = [], 0
        for size in plan.layer_bytes:
            need = batch * pages * size
            if at + need > ARENA_BYTES:
                at = 0
            if need > ARENA_BYTES:
                raise ValueError("one layer is larger than the arena")
            places.append(self.arena.data_ptr() + at)
            at += (need + 255) // 256 * 256

        def run():
            for i, layer in enumerate(layers):
                layer.launch(step, places[i], q, out, work, zone_layer, i % 4)

        read = (
            batch
            * (plan.layers * kv_heads * rows_bytes + pages * sum(plan.layer_bytes))
            / plan.layers
        )
        line = {
            "model": model,
            "mask": "leank" if mask else "dense",
            "k": STORAGES[k],
            "v": STORAGES[v],
            "batch": batch,
            "tokens": tokens,
            "bytes": read,
            "shape": layers[1].shape(),
        }
        # `order` lies behind the step's page tables.
        return {
            "run": run,
            "out": out,
            "line": line,
            "layers": plan.layers,
            "shapes": [layer.shape() for layer in layers],
            "kv_heads": kv_heads,
            "keep": order,
        }

    def timed(self, case):
        """Measures a case as the kernels are now, keeps its line and prints it."""
        run, out, line = case["run"], case["out"], case["line"]
        model, batch, tokens = line["model"], line["batch"], line["tokens"]
        limit = line["bytes"] / self.rate / 1e3
        key = (model, batch, tokens)
        out.fill_(float("nan"))
        time = median_ms(captured(run)) * 1000 / case["layers"]
        if not torch.isfinite(out).all():
            raise RuntimeError("attention gave NaN")
        line = {
            **line,
            "us": round(time, 2),
            "gbs": round(line["bytes"] / time / 1e3, 1),
            "limit_us": round(limit, 2),
            "of_limit": round(limit / time, 4),
            "cudnn_us": round(self.cudnn.get(key, 0), 2),
            "times_cudnn": round(self.cudnn[key] / time, 3) if key in self.cudnn else None,
            "limit_times_cudnn": round(self.cudnn[key] / limit, 3) if key in self.cudnn else None,
        }
        self.lines.append(line)
        print(
            f"{model} {line['mask']:5} {line['k']:>4}/{line['v']:4} {batch:3} x {tokens:6}: {time:8.2f} us, limit {limit:8.2f} "
            f"({100 * limit / time:5.1f} %), cuDNN x {line['times_cudnn']} {line['shape']}",
            flush=True,
        )

    def flush(self, k, v, jobs_count):
        """One launch that turns the oldest 32 rows of `jobs_count` sequences into pages of all layers."""
        plan, _ = self.layers("llama-3.1-8b", True, k, v)
        stride = RECENT + SLOTS
        zone = plan.kv_heads * stride * DIM
        jobs = flush_jobs(
            [
                (
                    self.arena.data_ptr() + 4 * i * plan.layers * zone,
                    self.arena.data_ptr() + 4 * i * plan.layers * zone + 2 * plan.layers * zone,
                    stride,
                    7 * i % stride,
                    i,
                )
                for i in range(jobs_count)
            ]
        )
        arenas = [
            torch.empty(jobs_count * size + 16, dtype=torch.uint8, device="cuda")
            for size in plan.layer_bytes
        ]
        table = torch.tensor([a.data_ptr() for a in arenas], dtype=torch.int64).cuda()
        bad = torch.zeros(1, dtype=torch.int32, device="cuda")

        def run():
            stream = torch.cuda.current_stream().cuda_stream
            library.harness_flush(
                plan.handle,
                pointer(plan.device),
                pointer(jobs),
                jobs_count,
                pointer(table),
                ctypes.c_size_t(zone),
                pointer(bad),
                ctypes.c_void_p(stream),
            )

        time = median_ms(captured(run)) * 1000
        if bad.item() != 0:
            raise RuntimeError("page flush found values that are not finite")
        self.flushes.append(
            {"k": STORAGES[k], "v": STORAGES[v], "sequences": jobs_count, "us": round(time, 2)}
        )
        print(
            f"flush {STORAGES[k]}/{STORAGES[v]} {jobs_count} sequences, all layers: {time:.1f} us",
            flush=True,
        )


def markdown(bench, head):
    lines = [f"# Decode attention on {head['device']}", ""]
    lines += [head_line(head)]
    lines += [
        f"Command: `{head['command']}`. Device copy {head['copy_gb_s']:.0f} GB/s (bytes read plus written): the byte limits below are at this rate.",
        "",
    ]
    lines += [
        "| model | plan | K / V | batch x tokens | us a layer | byte limit us | share of limit | x cuDNN dense | limit x cuDNN |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for l in bench.lines:
        times = "" if l["times_cudnn"] is None else f"{l['times_cudnn']:.2f}"
        limit = "" if l["limit_times_cudnn"] is None else f"{l['limit_times_cudnn']:.2f}"
        lines.append(
            f"| {l['model']} | {l['mask']} | {l['k']} / {l['v']} | {l['batch']} x {l['tokens']:,} | {l['us']:.1f} | {l['limit_us']:.1f} | {100 * l['of_limit']:.1f} % | {times} | {limit} |"
        )
    lines += [
        "",
        "Page flush, Llama mask, one launch for all 32 layers; a sequence flushes one page every 32 tokens:",
        "",
        "| K / V | sequences | us |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {f['k']} / {f['v']} | {f['sequences']} | {f['us']:.1f} |" for f in bench.flushes]
    return "\n".join(lines) + "\n"


def main():
    quick = "--quick" in sys.argv
    began = time.time()
    bench = Bench(os.environ["LEANEDGE_MASKS"])
    print(f"copy {bench.rate:.0f} GB/s, ready after {time.time() - began:.1f} s", flush=True)
    head = result_head("gpu-worker/device/run.sh", copy_gb_s=round(bench.rate, 1))

    def save():
        """What there is so far: a run that is cut off leaves its lines."""
        results = {"head": head, "lines": bench.lines, "flushes": bench.flushes}
        write_results("decode-attention", results, markdown(bench, head))

    for batch, tokens in SHAPES:
        bench.cudnn["llama-3.1-8b", batch, tokens] = cudnn_us(batch, tokens, 32, 8)
        print(
            f"cuDNN {batch} x {tokens}: {bench.cudnn['llama-3.1-8b', batch, tokens]:.1f} us",
            flush=True,
        )
    for mask, storages in (
        (False, ((0, 0),)),
        (True, ((0, 0), (1, 1), (2, 2), (3, 3)) + (() if quick else ((2, 3),))),
    ):
        for k, v in storages:
            for batch, tokens in SHAPES:
                bench.measure("llama-3.1-8b", mask, k, v, batch, tokens)
            save()
    if not quick:
        for k, v in ((0, 0), (2, 2)):
            for batch, tokens in SHAPES:
                bench.measure("qwen2.5-7b", True, k, v, batch, tokens)
            save()
        for k, v in ((0, 0), (2, 2), (3, 3)):
            for count in (1, 2, 64):
                bench.flush(k, v, count)
        save()


if __name__ == "__main__":
    main()
