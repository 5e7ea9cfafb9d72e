"""Times row kernels and sampling: medians of CUDA-graph replays, so launches overlap as in a step.

LEANEDGE_CUDA_LIBRARY names the library with test/rows_harness.cpp. Writes rows.json and rows.md into $OUT.
Small cases lie in the second-level cache. Run check_rows.py first.
"""

import os

import numpy as np
import torch

from measure import captured, copy_rate, head_line, median_ms, result_head, write_results
from rows_harness import (
    BF16, KV_TARGET, SAMPLE_ROW, RmsNorm, RotateWrite, Sampling, SwiGlu, at, bytes_of, launch,
    poison, random,
)  # fmt: skip

lines = []


def figure(name, rows, us, size):
    lines.append({"what": name, "rows": rows, "us": round(us, 2), "gb_s": round(size / us / 1000)})
    print(f"{name}, {rows} rows: {us:.2f} us, {size / us / 1000:.0f} GB/s", flush=True)


def time_us(work, launches=32, replays=20):
    def run():
        for _ in range(launches):
            work()

    return median_ms(captured(run), replays) * 1000 / launches


def measure():
    for rows in (1, 16, 64, 256, 2048):
        dim, ff, heads, kv_heads, head_dim = 4096, 14336, 32, 8, 128
        x, w = random(rows, dim), random(dim)
        y = poison(rows, dim, dtype=torch.bfloat16)
        norm = RmsNorm(at(x), None, at(w), None, at(y), 0, BF16, 1e-5, rows, dim)
        add = random(rows, dim, dtype=torch.bfloat16, scale=0)
        added = RmsNorm(at(x), at(add), at(w), None, at(y), BF16, BF16, 1e-5, rows, dim)
        both, h = random(rows, 2 * ff, dtype=torch.bfloat16), poison(rows, ff, dtype=torch.bfloat16)
        glu = SwiGlu(at(both), at(h), BF16, BF16, rows, ff, ff)
        qkv = random(rows, heads + 2 * kv_heads, head_dim, dtype=torch.bfloat16)
        angles = random(rows, head_dim // 2, 2)
        cache = torch.zeros(2, kv_heads, rows, head_dim, dtype=torch.float16, device="cuda")
        targets = np.zeros(rows, dtype=KV_TARGET)
        targets["k"] = at(cache) + np.arange(rows) * head_dim * 2
        targets["v"] = targets["k"] + cache[0].numel() * 2
        targets["stride"] = rows
        device_targets = bytes_of(targets)
        q, flags = poison(rows, heads, head_dim), torch.zeros(rows, dtype=torch.int32, device="cuda")
        rotate = RotateWrite(at(qkv), None, None, None, at(angles), at(device_targets), at(q), None,
                             None, at(flags), 0, 0, BF16, 1e-6, rows, heads, kv_heads, head_dim,
                             head_dim)  # fmt: skip
        figures = {
            "rmsnorm": (time_us(lambda: launch("rmsnorm", norm)), rows * dim * 6),
            "add + rmsnorm": (time_us(lambda: launch("rmsnorm", added)), rows * dim * 12),
            "swiglu": (time_us(lambda: launch("swiglu", glu)), rows * ff * 6),
            "rotate + write": (
                time_us(lambda: launch("rotate_write", rotate)),
                rows * head_dim * (heads * 6 + kv_heads * 8),
            ),
        }
        for name, (us, size) in figures.items():
            figure(name, rows, us, size)
    for vocab in (32000, 128256):
        for rows in (1, 16, 64, 256):
            logits = random(rows, vocab, scale=2.5)
            for name, values in {
                "greedy": (0, 1.0, 0, 0),
                "temperature": (1, 1.0, 0, 0),
                "top_p 0.95": (1, 0.95, 0, 0),
                "top_k 40, top_p 0.9": (0.8, 0.9, 0, 40),
            }.items():
                params = np.zeros(rows, dtype=SAMPLE_ROW)
                params["temperature"], params["top_p"], params["min_p"], params["top_k"] = values
                params["repetition_penalty"] = 1
                params["position"] = params["logits_row"] = np.arange(rows)
                params["seed"] = 5
                device_params = bytes_of(params)
                out = torch.zeros((rows, 4), dtype=torch.int32, device="cuda")
                call = Sampling(at(logits), at(device_params), None, at(out), None, vocab, vocab, rows)
                us = time_us(lambda: launch("sampling", call), launches=16, replays=12)
                figure(f"sampling of {vocab}, {name}", rows, us, rows * vocab * 4)


def markdown(head):
    out = [
        f"# Row kernels and sampling on {head['device']}",
        "",
        head_line(head),
        f"Command: `{head['command']}`. Device copy {head['copy_gb_s']:.0f} GB/s (bytes read plus "
        "written).",
        "",
        "Shapes of Llama-3.1-8B. Graph replays of the same launch: small cases lie in the second-level "
        "cache. Sampling counts the bytes of the logits once.",
        "",
        "| kernel | rows | us | GB/s |",
        "| --- | --- | --- | --- |",
    ]
    for line in lines:
        out.append(f"| {line['what']} | {line['rows']} | {line['us']:.2f} | {line['gb_s']} |")
    return "\n".join(out) + "\n"


copy = copy_rate()
print(f"{torch.cuda.get_device_name()}: copy {copy:.0f} GB/s")
measure()
if "OUT" in os.environ:
    head = result_head("bench_rows.py", copy_gb_s=round(copy, 1))
    write_results("rows", {"head": head, "lines": lines}, markdown(head))
