"""A thin Python face of the boundary of engine/include/leanedge/engine.h over a shared library: the CUDA
engine, or the reference. One engine a library."""

import ctypes
import struct
from dataclasses import dataclass

import numpy as np

F32, F16, Q4_0, Q8_0, BF16 = 0, 1, 2, 8, 30
PROMPT, GENERATED = 1, 2
CHUNK = 256 * 1024


class EngineError(Exception):
    def __init__(self, status, message):
        super().__init__(f"{status}: {message}")
        self.status = status


@dataclass(frozen=True)
class Config:
    """leanedge::ModelConfig."""

    architecture: int = 0  # 0 Llama, 1 Qwen2, 2 Qwen3
    layers: int = 4
    dim: int = 512
    ff_dim: int = 1024
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 64
    vocab_size: int = 1000
    context: int = 4096
    rope_order: int = 0  # 1: rows of Q and K interleaved, as GGUF files of Llama have them
    rms_eps: float = 1e-5
    rope_base: float = 10000.0
    tied: int = 0
    qkv_bias: int = 0
    qk_norm: int = 0

    def block(self):
        return struct.pack(
            "<12i7f5i",
            self.architecture,
            self.layers,
            self.dim,
            self.ff_dim,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.vocab_size,
            self.context,
            self.head_dim,
            self.rope_order,
            0,
            self.rms_eps,
            self.rope_base,
            1.0,
            0.0,
            32.0,
            1.0,
            1.0,
            self.tied,
            self.qkv_bias,
            self.qk_norm,
            0,
            0,
        )


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file: `data` are its bytes, (rows, cols) of dtype."""

    role: int
    layer: int
    dtype: int
    rows: int
    cols: int
    data: object  # bytes, or a contiguous numpy array


@dataclass(frozen=True)
class Sampling:
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 64
    seed: int = 0

    def block(self):
        return struct.pack(
            "<fifffiQ",
            self.temperature,
            self.top_k,
            self.top_p,
            self.min_p,
            self.repetition_penalty,
            self.repetition_window,
            self.seed,
        )


@dataclass
class Result:
    """leanedge::StepResult."""

    status: int
    token: int
    pending: int
    work: int
    logprob: float


STATS = (
    "memory_bytes memory_bytes_max weight_bytes scratch_bytes cache_bytes cache_bytes_free steps rows "
    "allocations weight_bytes_row cache_bytes_peak"
).split()


class Engine:
    """An engine of the library at `path` with its weights loaded and plans added, running."""

    def __init__(
        self,
        path,
        config,
        tensors,
        plans=(),
        identity=(16, 112),
        memory=2 << 30,
        sequences=16,
        batch_rows=512,
        context=None,
        weight_form=0,
    ):
        self.config = config
        self.library = lib = ctypes.CDLL(path)
        for name in ("le_sequence_create", "le_sequence_fork", "le_snapshot_begin", "le_backend"):
            getattr(lib, name).restype = ctypes.c_int32
        lib.le_error.restype = ctypes.POINTER(ctypes.c_char)
        lib.le_logits.restype = ctypes.POINTER(ctypes.c_float)
        lib.le_snapshot_bytes.restype = ctypes.c_uint64
        lib.le_plan_sequence_bytes.restype = ctypes.c_uint64
        tensors = list(tensors)
        table = b"".join(
            struct.pack("<6i", t.role, t.layer, t.dtype, t.rows, t.cols, 0) for t in tensors
        )
        options = struct.pack(
            "<Q4i", memory, sequences, batch_rows, context or config.context, weight_form
        )
        self.check(lib.le_engine_create(options, config.block(), table, len(tensors)))
        for index, tensor in enumerate(tensors):
            self.write(index, tensor.data)
        self.check(lib.le_plan_add(None, identity[0], identity[1]))
        for plan in plans:
            self.check(lib.le_plan_add(plan, 0, 0))
        self.check(lib.le_engine_start())

    def write(self, index, data):
        array = np.frombuffer(data, dtype=np.uint8) if isinstance(data, bytes) else data
        array = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        address, size = array.ctypes.data, array.size
        for at in range(0, size, CHUNK):
            count = min(CHUNK, size - at)
            self.check(
                self.library.le_weights_write(
                    index, ctypes.c_uint64(at), ctypes.c_void_p(address + at), count
                )
            )

    def close(self):
        """Frees all that the engine has; nothing may follow."""
        self.check(self.library.le_engine_close())

    def error(self):
        raw = self.library.le_error()[:264]
        status = struct.unpack_from("<i", raw)[0]
        return status, raw[24:].split(b"\0")[0].decode()

    def check(self, code):
        if code < 0:
            raise EngineError(*self.error())
        return code

    def create(self, plan=0):
        return self.check(self.library.le_sequence_create(plan))

    def free(self, sequence):
        self.check(self.library.le_sequence_free(sequence))

    def append(self, sequence, ids, kind=PROMPT):
        ids = np.ascontiguousarray(ids, dtype=np.int32)
        self.check(
            self.library.le_sequence_append(
                sequence, kind, ctypes.c_void_p(ids.ctypes.data), len(ids)
            )
        )

    def truncate(self, sequence, tokens):
        self.check(self.library.le_sequence_truncate(sequence, tokens))

    def drop_cache(self, sequence):
        self.check(self.library.le_sequence_drop_cache(sequence))

    def fork(self, sequence, tokens):
        return self.check(self.library.le_sequence_fork(sequence, tokens))

    def sampling(self, sequence, sampling):
        self.check(self.library.le_sequence_sampling(sequence, sampling.block()))

    def stats(self, sequence=None):
        if sequence is None:
            out = (ctypes.c_uint64 * 11)()
            self.check(self.library.le_engine_stats(out))
            return dict(zip(STATS, out))
        raw = ctypes.create_string_buffer(32)
        self.check(self.library.le_sequence_stats(sequence, raw))
        names = ("tokens", "computed", "segments", "pages", "cache_bytes", "log_hash")
        return dict(zip(names, struct.unpack("<4i2Q", raw.raw)))

    def ids(self, sequence):
        count = self.stats(sequence)["tokens"]
        out = np.zeros(count, dtype=np.int32)
        self.check(
            self.library.le_sequence_ids(sequence, 0, count, ctypes.c_void_p(out.ctypes.data))
        )
        return out.tolist()

    def step(self, sequences, sample=1, work=1 << 30):
        """One step of these sequences; results in their order."""
        block = b"".join(struct.pack("<4i", s, work, sample, 0) for s in sequences)
        out = ctypes.create_string_buffer(24 * len(sequences))
        self.check(self.library.le_step(block, len(sequences), out))
        return [Result(*struct.unpack_from("<4if", out.raw, 24 * i)) for i in range(len(sequences))]

    def run(self, sequence, sample=1):
        """Steps until nothing of the sequence is pending; the last result."""
        while True:
            result = self.step([sequence], sample)[0]
            if result.status != 0:
                raise EngineError(result.status, self.error()[1])
            if sample == 1 and result.token >= 0 or sample == 0 and result.pending == 0:
                return result

    def logits(self, sequence):
        row = self.library.le_logits(sequence)
        if not row:
            raise EngineError(-8, "no logits")
        return np.ctypeslib.as_array(row, shape=(self.config.vocab_size,)).copy()

    def snapshot(self, sequence):
        size = self.library.le_snapshot_bytes(sequence)
        out = np.zeros(size, dtype=np.uint8)
        for at in range(0, size, CHUNK):
            self.check(
                self.library.le_snapshot_read(
                    sequence,
                    ctypes.c_uint64(at),
                    ctypes.c_void_p(out.ctypes.data + at),
                    min(CHUNK, size - at),
                )
            )
        return out

    def restore(self, plan, data, chunk=CHUNK):
        sequence = self.check(self.library.le_snapshot_begin(plan, ctypes.c_uint64(data.size)))
        for at in range(0, data.size, chunk):
            self.check(
                self.library.le_snapshot_write(
                    sequence,
                    ctypes.c_uint64(at),
                    ctypes.c_void_p(data.ctypes.data + at),
                    min(chunk, data.size - at),
                )
            )
        return sequence
