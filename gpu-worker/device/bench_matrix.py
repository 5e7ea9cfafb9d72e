"""Products at the shapes of Llama-3.1-8B: GB/s of weights against the run's device copy, TFLOP/s against
its bf16 product rate, torch's matmul beside them. Medians over CUDA-graph replays; each graph walks
through copies of the matrix that are far more than the cache holds. Writes matrix.json and a Markdown
table into $OUT."""

import os
import sys

import torch

from matrix_harness import FORMS, NATIVE, Context, Matrix, file_rows
from measure import (
    captured,
    copy_rate,
    head_line,
    median_ms,
    product_rate,
    result_head,
    write_results,
)

SHAPES = {
    "qkv": (6144, 4096, "bf16", True),
    "output": (4096, 4096, "residual", False),
    "gate+up": (28672, 4096, "swiglu", True),
    "down": (4096, 14336, "residual", False),
    "logits": (128256, 4096, "f32", True),
}
LAYERS = 32
NORM_ROWS_MAX = 4  # kMatrixNormRowsMax
SET_BYTES = 600 << 20
ROUNDS = 9


def random_matrix(form, rows, cols, gen):
    matrix = Matrix(form, rows, cols)
    piece = min(rows, 4096)
    raw, _ = file_rows(NATIVE[form], piece, cols, gen)
    for at in range(0, rows, piece):
        matrix.pack(raw, NATIVE[form], min(piece, rows - at), to_row=at)
    return matrix


def buffers(rows, cols, inputs, output):
    x = torch.randn((inputs, cols), device="cuda").to(torch.bfloat16)
    width = rows // 2 if output == "swiglu" else rows
    dtype = torch.bfloat16 if output in ("bf16", "swiglu") else torch.float32
    out = torch.zeros((inputs, width), device="cuda", dtype=dtype)
    return x, out


def single(context, form, name, inputs, results, copy, rate):
    """One shape by itself, launch after launch."""
    rows, cols, output, norm = SHAPES[name]
    gen = torch.Generator(device="cuda").manual_seed(1)
    bytes_ = Matrix(form, rows, cols).bytes
    count = max(2, min(24, -(-SET_BYTES // bytes_)))
    matrices = [random_matrix(form, rows, cols, gen) for _ in range(count)]
    x, out = buffers(rows, cols, inputs, output)
    given = (
        (x.float(), torch.ones(cols, device="cuda"), 1e-5)
        if norm and inputs <= NORM_ROWS_MAX
        else None
    )

    def run():
        for matrix in matrices:
            context.product(matrix, out, output, x=None if given else x, norm=given)

    us = median_ms(captured(run), ROUNDS) * 1e3 / count
    gbs, tflops = bytes_ / us / 1e3, 2 * rows * cols * inputs / us / 1e6
    entry = {"form": form, "shape": name, "inputs": inputs, "us": us, "gbs": gbs, "tflops": tflops}
    peer = ""
    if form == "bf16":
        weights = [
            m.data[: 2 * rows * cols].view(torch.bfloat16).view(rows, cols) for m in matrices
        ]
        y = torch.empty((inputs, rows), device="cuda", dtype=torch.bfloat16)

        def run_peer():
            for w in weights:
                torch.matmul(x, w.T, out=y)

        entry["torch_us"] = median_ms(captured(run_peer), ROUNDS) * 1e3 / count
        peer = f"  torch {entry['torch_us']:8.2f} us"
    results.append(entry)
    print(
        f"{form:5} {name:8} x {inputs:4}: {us:9.2f} us {gbs:7.0f} GB/s {100 * gbs / copy:5.1f} % "
        f"{tflops:6.1f} TFLOP/s {100 * tflops / rate:5.1f} %{peer}",
        flush=True,
    )


def step_products(context, form, inputs):
    """What launches all products of a decode step, 32 layers and the logits, and the bytes of their weights."""
    gen = torch.Generator(device="cuda").manual_seed(2)
    layer = {name: SHAPES[name] for name in SHAPES if name != "logits"}
    matrices = [
        {name: random_matrix(form, s[0], s[1], gen) for name, s in layer.items()}
        for _ in range(LAYERS)
    ]
    logits = random_matrix(form, SHAPES["logits"][0], 4096, gen)
    stream = torch.randn((inputs, 4096), device="cuda")
    weight = torch.ones(4096, device="cuda")
    outs = {name: buffers(s[0], s[1], inputs, s[2]) for name, s in SHAPES.items()}
    norm = (stream, weight, 1e-5) if inputs <= NORM_ROWS_MAX else None

    def normed(name, matrix):
        x, out = outs[name]
        context.product(matrix, out, SHAPES[name][2], x=None if norm else x, norm=norm)

    def run():
        for m in matrices:
            normed("qkv", m["qkv"])
            context.product(m["output"], stream, "residual", x=outs["output"][0])
            normed("gate+up", m["gate+up"])
            context.product(m["down"], stream, "residual", x=outs["gate+up"][1])
        normed("logits", logits)

    return run, sum(m.bytes for group in matrices for m in group.values()) + logits.bytes


def model(context, form, inputs, results, copy):
    """All products of a decode step, one graph."""
    run, total = step_products(context, form, inputs)
    us = median_ms(captured(run), ROUNDS) * 1e3
    entry = {"form": form, "shape": "model", "inputs": inputs, "us": us, "gbs": total / us / 1e3}
    results.append(entry)
    print(
        f"{form:5} model    x {inputs:4}: {us:9.1f} us {entry['gbs']:7.0f} GB/s "
        f"{100 * entry['gbs'] / copy:5.1f} %  {1e6 * inputs / us:8.1f} tokens/s of products alone",
        flush=True,
    )


def argument(name, default):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def write(head, results):
    """What there is so far: a run that is cut short leaves its lines."""
    if "OUT" in os.environ:
        write_results("matrix", {"head": head, "lines": results}, markdown(head, results))


def markdown(head, results):
    out = [
        f"# Matrix products on {head['device']}",
        "",
        head_line(head),
        f"Command: `{head['command']}`. Device copy {head['copy_gb_s']:.0f} GB/s (bytes read plus "
        f"written), bf16 product {head['bf16_tflop_s']:.0f} TFLOP/s (8192 x 8192 x 8192).",
        "",
        "Shapes of Llama-3.1-8B; `model` is all products of a decode step in one graph. Bytes are "
        "those of the weights.",
        "",
        "| weights | product | rows | us | GB/s | share of the copy rate | TFLOP/s | torch us |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line in results:
        peer = f"{line['torch_us']:.1f}" if "torch_us" in line else ""
        tflops = f"{line['tflops']:.1f}" if "tflops" in line else ""
        out.append(
            f"| {line['form']} | {line['shape']} | {line['inputs']} | {line['us']:.1f} | "
            f"{line['gbs']:.0f} | {100 * line['gbs'] / head['copy_gb_s']:.1f} % | {tflops} | {peer} |"
        )
    return "\n".join(out) + "\n"


def main():
    forms = argument("--forms", ",".join(FORMS)).split(",")
    singles = [int(n) for n in argument("--inputs", "1,4,8,16,64,128,2048").split(",") if n]
    models = [int(n) for n in argument("--model", "1,8").split(",") if n]
    names = argument("--shapes", ",".join(SHAPES)).split(",")
    context, results = Context(), []
    copy, rate = copy_rate(rounds=ROUNDS), product_rate(ROUNDS)
    head = result_head(
        "bench_matrix.py " + " ".join(sys.argv[1:]),
        copy_gb_s=round(copy, 1),
        bf16_tflop_s=round(rate, 1),
    )
    print(f"{head['device']}: copy {copy:.0f} GB/s, bf16 product {rate:.0f} TFLOP/s")
    for form in forms:
        for inputs in singles:
            for name in names:
                if name == "logits" and inputs > 128:
                    continue  # no one asks for that many
                try:
                    single(context, form, name, inputs, results, copy, rate)
                except Exception as error:
                    print(f"FAIL {form} {name} x {inputs}: {error}", flush=True)
                torch.cuda.empty_cache()
            write(head, results)
        for inputs in models:
            try:
                model(context, form, inputs, results, copy)
            except Exception as error:
                print(f"FAIL {form} model x {inputs}: {error}", flush=True)
            torch.cuda.empty_cache()
            write(head, results)


if __name__ == "__main__":
    main()
