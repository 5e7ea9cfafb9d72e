"""Prefill attention at the geometry of Llama-3.1-8B against cuDNN and FlashAttention (torch), medians:
a segment alone at several lengths, and 2,048 rows behind a history in the archive. A rate counts the
products of every query with every slot that it may see over all of head_dim, 4 operations a pair and
channel, whatever the archive drops. Writes prefill-attention.json and .md into $OUT."""

import json
import os
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import prefill_runs
from harness import STORAGES, Layer, Plan, archive_pages
from measure import captured, head_line, median_ms, result_head, write_results
from prefill_runs import Runs, Segment

HEADS, KV_HEADS, DIM, SINK, RECENT = 32, 8, 128, 16, 112
LAYERS = (0, 5, 9, 14, 20, 27)  # of the mask: the mean of these stands for all


def operations(history, rows):
    return 4 * HEADS * DIM * (rows * history + rows * (rows + 1) / 2)


def peers(rows):
    q = torch.randn((1, HEADS, rows, DIM), device="cuda", dtype=torch.bfloat16)
    k, v = (
        torch.randn((1, KV_HEADS, rows, DIM), device="cuda", dtype=torch.bfloat16) for _ in "kv"
    )
    out = {}
    for name, backend in (
        ("cudnn", SDPBackend.CUDNN_ATTENTION),
        ("flash", SDPBackend.FLASH_ATTENTION),
    ):

        def run():
            with sdpa_kernel(backend):
                torch.nn.functional.scaled_dot_product_attention(
                    q, k, v, is_causal=True, enable_gqa=True
                )

        out[name] = operations(0, rows) / median_ms(captured(run), 7) / 1e9
    return out


class Zones:
    """The zones of one sequence of `history` tokens with random bytes, many layers sharing full rows."""

    def __init__(self, plan, history, gen):
        self.pages = archive_pages(history, SINK, RECENT)
        full = history - 32 * self.pages
        self.rows = torch.randn(
            (2, KV_HEADS, full, DIM), device="cuda", generator=gen, dtype=torch.float32
        ).half()
        self.table = torch.randperm(self.pages, device="cuda").to(torch.int32)
        size = max(plan.layer_bytes) * self.pages
        self.arena = (
            torch.randn(size // 2, device="cuda", generator=gen, dtype=torch.float32) * 0.05
        ).half()
        self.before = (
            [(self.rows[0].data_ptr(), self.rows[1].data_ptr(), full, full)],
            self.table.data_ptr(),
            self.pages,
        )


def measure(plan, layers, history, rows, gen):
    segment = Segment(KV_HEADS, DIM, rows, gen)
    zones = Zones(plan, history, gen) if history else None
    runs = Runs([(zones.before if zones else None, segment, 0, 0, rows)], HEADS // KV_HEADS)
    q = torch.randn((rows, HEADS, DIM), device="cuda", generator=gen).to(torch.bfloat16)
    out = torch.empty_like(q)
    work = prefill_runs.scratch(DIM)
    ready = [Layer(plan, layer, HEADS) for layer in layers]

    def run():
        for layer in ready:
            arena = zones.arena.data_ptr() if zones else 0
            prefill_runs.launch(layer, runs, q, out, arena, 0, 0, overlap=1, work=work)

    time_ms = median_ms(captured(run), 7) / len(ready)
    if not torch.isfinite(out).all():
        raise RuntimeError("attention gave NaN")
    return time_ms, operations(history, rows) / time_ms / 1e9


def markdown(head, lines):
    out = [
        f"# Prefill attention on {head['device']}",
        "",
        head_line(head),
        f"Command: `{head['command']}`. Llama-3.1-8B geometry: 32 query heads, 8 KV heads of 128; a "
        "layer. Rates count every query with every slot that it may see, over all of head_dim.",
        "",
        "| rows | behind | zones before | us | TFLOP/s | cuDNN | Flash |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        zones = f"{line['mask']} {line['storage']}" if "mask" in line else ""
        peers_of = [f"{line[peer]:.0f}" if peer in line else "" for peer in ("cudnn", "flash")]
        out.append(
            f"| {line['rows']:,} | {line['history']:,} | {zones} | {line['us']:.1f} | "
            f"{line['tflops']:.0f} | {peers_of[0]} | {peers_of[1]} |"
        )
    return "\n".join(out) + "\n"


def main():
    gen = torch.Generator(device="cuda").manual_seed(1)
    quick = "--quick" in sys.argv
    lines = []
    head = result_head("gpu-worker/device/run.sh")

    def save():
        """What there is so far: a run that is cut off leaves its lines."""
        write_results("prefill-attention", {"head": head, "lines": lines}, markdown(head, lines))

    identity = Plan([[list(range(DIM))] * KV_HEADS], DIM, SINK, RECENT, 0, 0)
    for rows in (512, 2048, 8192, 32768) + (() if quick else (131072,)):
        time_ms, rate = measure(identity, [0], 0, rows, gen)
        other = peers(rows)
        lines.append({"rows": rows, "history": 0, "us": 1000 * time_ms, "tflops": rate, **other})
        print(
            f"prefill {rows:6} rows: {1000 * time_ms:9.1f} us {rate:6.1f} TFLOP/s, "
            f"cuDNN {other['cudnn']:.1f}, Flash {other['flash']:.1f}",
            flush=True,
        )
        save()
    path = os.path.join(os.environ["LEANEDGE_MASKS"], "llama-3.1-8b-instruct.leank.json")
    kept = json.load(open(path))["kept"]
    for mask, storages in ((False, (0,)), (True, (0, 1, 2, 3))):
        for storage in storages:
            chosen = [kept[layer] for layer in LAYERS] if mask else identity.kept
            plan = Plan(chosen, DIM, SINK, RECENT, storage, storage)
            for history, rows in ((32768, 2048), (32768, 128), (32768, 16)):
                time_ms, rate = measure(plan, range(plan.layers), history, rows, gen)
                line = {
                    "rows": rows,
                    "history": history,
                    "mask": "leank" if mask else "dense",
                    "storage": STORAGES[storage],
                    "us": 1000 * time_ms,
                    "tflops": rate,
                }
                lines.append(line)
                print(
                    f"prefill {rows:6} rows behind {history} {line['mask']:5} {line['storage']:4}: "
                    f"{1000 * time_ms:9.1f} us, as dense {rate:6.1f} TFLOP/s",
                    flush=True,
                )
                save()


if __name__ == "__main__":
    main()
