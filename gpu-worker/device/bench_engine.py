"""Speed of the whole CUDA engine with an 8B Llama's shape and random weights: decode at several batches
behind 2,048 tokens each, prompts, against the limits that this run's copy and bf16 product rates set.
Prints a line a case and writes engine.json and engine.md into $OUT.

    python3 bench_engine.py [--forms bf16,fp8,q4_0,q8_0] [--batches 1,16,64] [--prompts 8192,32768]
        [--masks FOLDER] [--steps N] [--seconds N]"""

import argparse
import ctypes
import json
import os
import statistics
import struct
import time

import numpy as np
import torch

from engine import BF16, F32, Q4_0, Q8_0, Config, Engine, EngineError, Tensor
from measure import copy_rate, product_rate, result_head, write_results
from plan_block import plan_block
from random_model import ROLES

LIBRARY = os.environ["LEANEDGE_CUDA_LIBRARY"]
LLAMA_8B = Config(
    layers=32,
    dim=4096,
    ff_dim=14336,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocab_size=128256,
    context=40960,
    rope_base=500000.0,
)
DTYPES = {"bf16": BF16, "fp8": BF16, "q8_0": Q8_0, "q4_0": Q4_0}
BLOCK_BYTES = {Q8_0: 34, Q4_0: 18}
SINK, RECENT = 16, 112
start = time.time()
lines = []


def show(**line):
    lines.append(line)
    print(" ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in line.items()), flush=True)


class Weights:
    """Tensors of a model whose rows are cut from one random buffer."""

    def __init__(self, config, dtype):
        self.config = config
        rng = np.random.default_rng(1)
        if dtype == BF16:
            values = rng.standard_normal(1 << 24).astype(np.float32) * 0.02
            self.buffer = np.tile((values.view(np.uint32) >> 16).astype(np.uint16), 4).view(np.uint8)
        else:
            size = BLOCK_BYTES[dtype]
            blocks = rng.integers(0, 256, (1 << 19, size), dtype=np.uint8)
            blocks[:, :2] = np.float16(0.02 / (64 if dtype == Q8_0 else 4)).reshape(1).view(np.uint8)
            self.buffer = np.tile(blocks, (8, 1)).reshape(-1)
        self.dtype = dtype

    def tensors(self):
        c = self.config
        q_dim, kv_dim = c.heads * c.head_dim, c.kv_heads * c.head_dim

        def matrix(name, layer, rows, cols):
            return Tensor(ROLES[name], layer, self.dtype, rows, cols, None)

        def vector(name, layer):
            return Tensor(ROLES[name], layer, F32, 1, c.dim, np.ones(c.dim, dtype=np.float32))

        yield matrix("embedding", -1, c.vocab_size, c.dim)
        for layer in range(c.layers):
            yield vector("attn_norm", layer)
            yield matrix("q", layer, q_dim, c.dim)
            yield matrix("k", layer, kv_dim, c.dim)
            yield matrix("v", layer, kv_dim, c.dim)
            yield matrix("o", layer, c.dim, q_dim)
            yield vector("ffn_norm", layer)
            yield matrix("gate", layer, c.ff_dim, c.dim)
            yield matrix("up", layer, c.ff_dim, c.dim)
            yield matrix("down", layer, c.dim, c.ff_dim)
        yield vector("output_norm", -1)
        yield matrix("output", -1, c.vocab_size, c.dim)

    def bytes_of(self, tensor):
        if tensor.dtype == BF16:
            return tensor.rows * tensor.cols * 2
        return tensor.rows * tensor.cols // 32 * BLOCK_BYTES[tensor.dtype]


class BenchEngine(Engine):
    """Streams weights out of the shared buffer instead of holding a model."""

    source = None

    def write(self, index, data):
        if data is not None:
            super().write(index, data)
            return
        size = self.source.bytes_of(self.table[index])
        buffer = self.source.buffer
        unit = 18 * 34  # whole blocks of either form
        chunk = unit << 14
        for at in range(0, size, chunk):
            count = min(chunk, size - at)
            begin = at % (buffer.size - chunk) // unit * unit
            self.check(
                self.library.le_weights_write(
                    index, ctypes.c_uint64(at), ctypes.c_void_p(buffer.ctypes.data + begin), count
                )
            )


def fill(engine, sequences, tokens):
    """Reads a prompt of `tokens` random ids into each sequence; seconds."""
    rng = np.random.default_rng(5)
    for sequence in sequences:
        engine.append(sequence, rng.integers(0, engine.config.vocab_size, tokens))
    begin = time.perf_counter()
    for sequence in sequences:
        engine.run(sequence)
    return time.perf_counter() - begin


def decode(engine, sequences, steps):
    times = []
    for _ in range(steps):
        begin = time.perf_counter()
        results = engine.step(sequences)
        times.append(time.perf_counter() - begin)
        bad = [r.status for r in results if r.status != 0]
        if bad:
            raise EngineError(bad[0], engine.error()[1])
    return statistics.median(times[5:])


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
            print(f"  begins {begin:7.2f} us behind the end so far, moves it by {moved:7.2f}: {name[:60]}")
        end = max(end, e.time_range.end)


def zone_bytes(engine, plan, tokens):
    """Bytes of K and V that a decode step at `tokens` tokens reads of one sequence."""
    c = engine.config
    pages = max(0, (tokens - SINK - RECENT) // 32)
    full = tokens - 32 * pages
    return full * c.layers * c.kv_heads * c.head_dim * 4 + pages * plan["page_bytes"]


def measure(form, plans, arguments, copy, product):
    config = LLAMA_8B
    source = Weights(config, DTYPES[form])
    BenchEngine.source = source
    BenchEngine.table = list(source.tensors())
    begin = time.perf_counter()
    engine = BenchEngine(
        LIBRARY,
        config,
        BenchEngine.table,
        [p["block"] for p in plans[1:] if not p["only"]],
        identity=(SINK, RECENT),
        memory=76 << 30,
        sequences=80,
        batch_rows=4096,
        weight_form=1 if form == "fp8" else 0,
    )
    row = engine.stats()["weight_bytes_row"]
    show(case="load", form=form, seconds=time.perf_counter() - begin, gb=engine.stats()["weight_bytes"] / 1e9)
    batches = [int(b) for b in arguments.batches.split(",")] if form in ("bf16",) else [1]
    if form == "bf16":
        for index, plan in enumerate(p for p in plans if not p["only"]):
            one = engine.library.le_plan_sequence_bytes(index, 32768)
            show(
                case="sessions",
                plan=plan["name"],
                tokens=32768,
                resident=engine.stats()["cache_bytes"] // one,
                mb_each=one / 1e6,
            )
    for index, plan in enumerate(plans):
        if plan["only"]:
            continue
        sequences, seconds = [], 0.0
        for batch in batches:
            if time.time() - start > arguments.seconds:
                return
            more = [engine.create(index) for _ in range(batch - len(sequences))]
            seconds += fill(engine, more, 2048)
            sequences += more
            step = decode(engine, sequences, arguments.steps)
            read = row + batch * zone_bytes(engine, plan, 2048 + arguments.steps // 2)
            show(
                case="decode",
                form=form,
                plan=plan["name"],
                batch=batch,
                ms=step * 1e3,
                tokens_s=batch / step,
                of_limit=read / copy / step,
            )
            if arguments.profile:
                profile(lambda: engine.step(sequences), 4)
        show(case="fill", form=form, plan=plan["name"], prompts=len(sequences), tokens_s=2048 * len(sequences) / seconds)
        for sequence in sequences:
            engine.free(sequence)
        if form != "bf16":
            continue
        for tokens in [int(t) for t in arguments.prompts.split(",") if t]:
            if time.time() - start > arguments.seconds:
                return
            sequence = engine.create(index)
            if arguments.profile:
                profile(lambda: fill(engine, [sequence], 4096), 1)
                engine.truncate(sequence, 0)
            seconds = fill(engine, [sequence], tokens)
            engine.free(sequence)
            c = config
            weights = c.layers * c.dim * ((c.heads + 2 * c.kv_heads) * c.head_dim + c.heads * c.head_dim + 3 * c.ff_dim)
            flops = 2 * weights * tokens + 2 * c.layers * c.heads * c.head_dim * tokens**2
            show(
                case="prompt",
                form=form,
                plan=plan["name"],
                tokens=tokens,
                seconds=seconds,
                tokens_s=tokens / seconds,
                tflops=flops / seconds / 1e12,
                of_product=flops / seconds / product,
            )


def published(plans, batches, limit):
    """4,096 tokens of prompt and 127 of answer for each sequence of a batch: seconds and memory."""
    source = Weights(LLAMA_8B, BF16)
    BenchEngine.source, BenchEngine.table = source, list(source.tensors())
    for name in ("published-dense", "published-leank"):
        for batch in batches:
            if time.time() - start > limit:
                return
            engine = BenchEngine(
                LIBRARY,
                LLAMA_8B,
                BenchEngine.table,
                [plan["block"] for plan in plans if plan["name"] == name],
                memory=76 << 30,
                sequences=batch,
                batch_rows=4096,
            )
            sequences = [engine.create(1) for _ in range(batch)]
            before = engine.stats()
            begin = time.perf_counter()
            fill(engine, sequences, 4096)
            for _ in range(126):
                engine.step(sequences)
            seconds = time.perf_counter() - begin
            used = before["cache_bytes_free"] - engine.stats()["cache_bytes_free"]
            show(
                case="published",
                plan=name,
                batch=batch,
                seconds=seconds,
                tokens_s=127 * batch / seconds,
                weights_and_cache_gb=(used + before["weight_bytes"]) / 1e9,
            )


def page_bytes(block):
    return struct.unpack_from("<I", block, 64)[0]


def plan_of(name, block, only=False):
    return {"name": name, "block": block, "page_bytes": page_bytes(block), "only": only}


def table(head):
    """The lines as Markdown, one table a case."""
    text = [
        "# The CUDA engine, 8B Llama geometry, random weights",
        "",
        f"{head['device']}, {head['date']}, commit {head['commit']}, `{head['command']}`; copy "
        f"{head['copy_gb_s']:.0f} GB/s, bf16 product {head['product_tflops']:.0f} TFLOP/s. `of_limit`: share of the"
        " time that reading weights and cache once at the copy rate takes; `of_product`: of the bf16 product rate.",
    ]
    for case in dict.fromkeys(line["case"] for line in lines):
        rows = [{k: v for k, v in line.items() if k != "case"} for line in lines if line["case"] == case]
        text += ["", f"## {case}", "", "| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
        for row in rows:
            cells = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values())
            text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--forms", default="bf16,fp8,q4_0")
    parser.add_argument("--batches", default="1,16,64")
    parser.add_argument("--prompts", default="8192,32768")
    parser.add_argument("--masks", default="")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=150.0, help="begin no case later than this")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--published", default="", help="batches of the published end-to-end case")
    arguments = parser.parse_args()
    copy, product = 1e9 * copy_rate(512 << 20, 7), 1e12 * product_rate(7)
    torch.cuda.empty_cache()
    show(case="rates", device=torch.cuda.get_device_name().replace(" ", "_"), copy_gb_s=copy / 1e9, product_tflops=product / 1e12)
    c = LLAMA_8B
    dense = plan_block(c.layers, c.kv_heads, c.head_dim, SINK, RECENT)
    plans = [plan_of("dense", dense)]
    if arguments.masks:
        path = os.path.join(arguments.masks, "llama-3.1-8b-instruct.leank.json")
        kept = json.load(open(path))["kept"]
        block = plan_block(c.layers, c.kv_heads, c.head_dim, SINK, RECENT, "int4", "int4", kept)
        plans.append(plan_of("leank-int4", block))
        for name, channels in (("published-dense", None), ("published-leank", kept)):
            block = plan_block(c.layers, c.kv_heads, c.head_dim, 6, 250, channels=channels)
            plans.append(plan_of(name, block, only=True))
    for form in arguments.forms.split(","):
        try:
            measure(form, plans, arguments, copy, product)
        except Exception as error:  # the next form may still be measured
            show(case="failed", form=form, error=repr(error)[:300])
    if arguments.published and arguments.masks:
        published(plans, [int(b) for b in arguments.published.split(",")], arguments.seconds)
    head = result_head("bench_engine.py", copy_gb_s=copy / 1e9, product_tflops=product / 1e12)
    write_results("engine", {"head": head, "lines": lines}, table(head))


main()
