"""Decode attention with page selection (2,048 tokens in 64 pages a KV head) at the geometry of
Llama-3.1-8B under the published mask, against cuDNN's dense decode attention: medians over CUDA-graph
replays of all layers, selection and attention. Writes page-selection.json and .md into $OUT."""

import json
import os

import torch

from bench import cudnn_us
from harness import STORAGES, Layer, Plan, archive_pages
from measure import captured, copy_rate, head_line, median_ms, result_head, write_results
from selection_steps import SelectingStep

HEADS, DIM, SINK, RECENT, PER_STEP = 32, 128, 16, 112, 64
SHAPES = ((1, 131072), (8, 32768), (64, 32768))
ARENA_BYTES = 12 << 30


def measure(arena, kept, storage, batch, tokens):
    """Microseconds a layer: all, selection alone, attention alone; and bytes that must be read."""
    plan = Plan(kept, DIM, SINK, RECENT, storage, storage, True, per_step=PER_STEP)
    layers = [Layer(plan, layer, HEADS) for layer in range(plan.layers)]
    pages = archive_pages(tokens, SINK, RECENT)
    full = tokens - 32 * pages
    span = plan.kv_heads * full * DIM
    zone_layer = 2 * batch * span
    order = torch.randperm(batch * pages, device="cuda").to(torch.int32)
    rows = []
    for i in range(batch):
        k = arena.data_ptr() + 4 * span * i
        rows.append(([(k, k + 2 * span, full, full)], order.data_ptr() + 4 * pages * i, pages))
    step = SelectingStep(plan, rows, HEADS)
    q = torch.randn((batch, HEADS, DIM), device="cuda")
    out = torch.empty_like(q)
    places, at = [], 0
    for size in plan.layer_bytes:
        need = batch * pages * size
        if at + need > ARENA_BYTES:
            at = 0
        places.append(arena.data_ptr() + at)
        at += (need + 255) // 256 * 256

    def both():
        for i, layer in enumerate(layers):
            step.select(layer, places[i], q)
            step.attend(layer, places[i], q, out, zone_layer, i % 4)

    def select():
        for i, layer in enumerate(layers):
            step.select(layer, places[i], q)

    def attend():
        for i, layer in enumerate(layers):
            step.attend(layer, places[i], q, out, zone_layer, i % 4)

    times = [median_ms(captured(run)) * 1000 / plan.layers for run in (both, select, attend)]
    if not torch.isfinite(out).all():
        raise RuntimeError("attention gave NaN")
    widths = sum(head["width"] for layer in plan.heads for head in layer)
    read = (
        batch * (PER_STEP * sum(plan.layer_bytes) + pages * widths * 4) / plan.layers
        + batch * plan.kv_heads * full * DIM * 4
    )
    return times, read


def markdown(head, lines):
    out = [
        f"# Decode attention with page selection on {head['device']}",
        "",
        head_line(head),
        f"Command: `{head['command']}`. Device copy {head['copy_gb_s']:.0f} GB/s. Llama-3.1-8B "
        "geometry and mask, 64 pages (2,048 tokens) a KV head, microseconds a layer; the limit is what "
        "must be read (bounds of all pages, chosen pages, full rows) at the copy rate.",
        "",
        "| K / V | batch x tokens | both | choosing alone | attending alone | limit | cuDNN dense | x |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for l in lines:
        out.append(
            f"| {l['storage']} | {l['batch']} x {l['tokens']:,} | {l['us']:.1f} | {l['select_us']:.1f} "
            f"| {l['attend_us']:.1f} | {l['limit_us']:.1f} | {l['cudnn_us']:.1f} | "
            f"{l['times_cudnn']:.1f} |"
        )
    return "\n".join(out) + "\n"


def main():
    arena = torch.empty(ARENA_BYTES // 2, dtype=torch.float16, device="cuda")
    for part in arena.split(1 << 28):
        part.copy_(torch.randn(part.numel(), device="cuda") * 0.05)
    rate = copy_rate(4 << 30)
    path = os.path.join(os.environ["LEANEDGE_MASKS"], "llama-3.1-8b-instruct.leank.json")
    kept = json.load(open(path))["kept"]
    lines = []
    head = result_head("gpu-worker/device/run.sh", copy_gb_s=round(rate, 1))
    for batch, tokens in SHAPES:
        dense = cudnn_us(batch, tokens, HEADS, 8)
        torch.cuda.empty_cache()
        for storage in (2, 0):
            if batch * archive_pages(tokens, SINK, RECENT) * 30000 > ARENA_BYTES and storage == 0:
                continue
            try:
                (both, select, attend), read = measure(arena, kept, storage, batch, tokens)
            except Exception as error:
                print(f"FAIL selection {STORAGES[storage]} {batch} x {tokens}: {error}", flush=True)
                continue
            line = {
                "storage": STORAGES[storage],
                "batch": batch,
                "tokens": tokens,
                "us": round(both, 2),
                "select_us": round(select, 2),
                "attend_us": round(attend, 2),
                "limit_us": round(read / rate / 1e3, 2),
                "cudnn_us": round(dense, 2),
                "times_cudnn": round(dense / both, 2),
            }
            lines.append(line)
            print(
                f"selection {line['storage']:4} {batch:3} x {tokens:6}: {both:7.1f} us a layer "
                f"(alone: {select:.1f} choosing, {attend:.1f} attending), byte limit "
                f"{line['limit_us']}, cuDNN dense {dense:.1f}: x {line['times_cudnn']}",
                flush=True,
            )
            # What there is so far: a run that is cut off leaves its lines.
            write_results("page-selection", {"head": head, "lines": lines}, markdown(head, lines))


if __name__ == "__main__":
    main()
