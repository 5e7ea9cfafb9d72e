"""What the benchmarks of a whole engine share: the shape of an 8B Llama with random weights cut from one
buffer, the cache plans, filling and stepping sequences, and a report that is on disk after every line.

Where torch has no GPU everything runs with a tiny shape over the reference engine (LEANEDGE_CUDA_LIBRARY): that
shows that a benchmark runs to its end, and its figures mean nothing."""

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

LIBRARY = os.environ.get("LEANEDGE_CUDA_LIBRARY", "")
DEVICE = torch.cuda.is_available()
SHAPE_8B = Config(
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
SHAPE_TINY = Config(
    layers=2, dim=256, ff_dim=256, heads=2, kv_heads=1, head_dim=128, vocab_size=512, context=4096
)
SHAPE = SHAPE_8B if DEVICE else SHAPE_TINY
MEMORY_BYTES = 76 << 30 if DEVICE else 1 << 30
DTYPES = {"bf16": BF16, "fp8": BF16, "q8_0": Q8_0, "q4_0": Q4_0}
BLOCK_BYTES = {Q8_0: 34, Q4_0: 18}
SINK, RECENT = 16, 112
start = time.time()


class Report:
    """Lines of figures, printed as they come and written to NAME.json and NAME.md in $OUT after each one: a run
    that is cut off has lost nothing. `notes` explain the columns."""

    def __init__(self, name, title, notes):
        self.name, self.title, self.notes = name, title, notes
        self.lines = []
        # Without a GPU no rate means anything; figures stay finite.
        self.copy = 1e9 * copy_rate(512 << 20, 7) if DEVICE else 1.0
        self.product = 1e12 * product_rate(7) if DEVICE else 1.0
        rates = {"copy_gb_s": self.copy / 1e9, "product_tflops": self.product / 1e12}
        self.head = result_head(f"bench_{name}.py", **rates)
        if DEVICE:
            torch.cuda.empty_cache()
        self.show(case="rates", device=self.head["device"].replace(" ", "_"), **rates)

    def show(self, **line):
        self.lines.append(line)
        words = (f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in line.items())
        print(" ".join(words), flush=True)
        write_results(self.name, {"head": self.head, "lines": self.lines}, self.markdown())

    def failed(self, what, error):
        self.show(case="failed", what=what, error=repr(error)[:300].replace("|", "/"))

    def markdown(self):
        head = self.head
        text = [
            f"# {self.title}",
            "",
            f"{head['device']}, {head['date']}, commit `{head['commit'][:12]}` (kernels `{head['kernels']}`), "
            f"`{head['command']}`; copy {head['copy_gb_s']:.0f} GB/s, bf16 product {head['product_tflops']:.0f} "
            f"TFLOP/s. {self.notes}",
        ]
        for case in dict.fromkeys(line["case"] for line in self.lines):
            rows = [
                {k: v for k, v in line.items() if k != "case"}
                for line in self.lines
                if line["case"] == case
            ]
            columns = list(dict.fromkeys(k for row in rows for k in row))
            text += [
                "",
                f"## {case}",
                "",
                "| " + " | ".join(columns) + " |",
                "|" + " --- |" * len(columns),
            ]
            for row in rows:
                cells = (row.get(k, "") for k in columns)
                text.append(
                    "| "
                    + " | ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in cells)
                    + " |"
                )
        return "\n".join(text) + "\n"


def late(seconds):
    """Whether this process has run for `seconds`: no case begins later."""
    return time.time() - start > seconds


def measure_forms(report, measure, arguments):
    """`measure(report, form, plans, arguments)` for each of `arguments.forms`, under a dense plan and, where
    `arguments.masks` has the published mask (or the shape is the tiny one), under that with int4 pages. A form that
    fails is noted, and none begins later than `arguments.seconds`."""
    plans = [plan("dense")]
    if arguments.masks or not DEVICE:
        plans.append(plan("leank-int4", "int4", kept_channels(arguments.masks)))
    for form in arguments.forms.split(","):
        if late(arguments.seconds):
            break
        begin = time.time()
        try:
            measure(report, form, plans, arguments)
        except Exception as error:  # the next form may still be measured
            report.failed(form, error)
        print(f"{form}: {time.time() - begin:.0f} s", flush=True)


class Weights:
    """Tensors of a model whose rows are cut from one random buffer."""

    def __init__(self, config, dtype):
        self.config = config
        rng = np.random.default_rng(1)
        if dtype == BF16:
            values = rng.standard_normal(1 << 24).astype(np.float32) * 0.02
            self.buffer = np.tile((values.view(np.uint32) >> 16).astype(np.uint16), 4).view(
                np.uint8
            )
        else:
            size = BLOCK_BYTES[dtype]
            blocks = rng.integers(0, 256, (1 << 19, size), dtype=np.uint8)
            blocks[:, :2] = (
                np.float16(0.02 / (64 if dtype == Q8_0 else 4)).reshape(1).view(np.uint8)
            )
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

    def __init__(self, form, plans, **options):
        self.source = Weights(SHAPE, DTYPES[form])
        self.table = list(self.source.tensors())
        begin = time.perf_counter()
        super().__init__(
            LIBRARY,
            SHAPE,
            self.table,
            plans,
            identity=(SINK, RECENT),
            memory=MEMORY_BYTES,
            batch_rows=4096 if DEVICE else 256,
            weight_form=1 if form == "fp8" and DEVICE else 0,
            **options,
        )
        self.load_seconds = time.perf_counter() - begin

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


def zone_bytes(engine, plan, tokens):
    """Bytes of K and V that a decode step at `tokens` tokens reads of one sequence."""
    c = engine.config
    pages = max(0, (tokens - SINK - RECENT) // 32)
    full = tokens - 32 * pages
    return full * c.layers * c.kv_heads * c.head_dim * 4 + pages * plan["page_bytes"]


def page_bytes(block):
    return struct.unpack_from("<I", block, 64)[0]


def plan_of(name, block):
    return {"name": name, "block": block, "page_bytes": page_bytes(block)}


def kept_channels(masks):
    """The channels of the published Llama mask in the folder `masks`; of the tiny shape some of its own."""
    if not DEVICE:
        return [[list(range(64))] * SHAPE.kv_heads] * SHAPE.layers
    return json.load(open(os.path.join(masks, "llama-3.1-8b-instruct.leank.json")))["kept"]


def plan(name, storage="f16", channels=None, sink=SINK, recent=RECENT, **more):
    c = SHAPE
    block = plan_block(
        c.layers, c.kv_heads, c.head_dim, sink, recent, storage, storage, channels, **more
    )
    return plan_of(name, block)
