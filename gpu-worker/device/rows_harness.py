"""Row kernels, sampling and the scalar sampler as Python sees them: structs, launches, tensors."""

import ctypes
import os

import numpy as np
import torch

P, I, F, D, Z = ctypes.c_void_p, ctypes.c_int32, ctypes.c_float, ctypes.c_double, ctypes.c_size_t
F32, F16, BF16 = 0, 1, 30
TORCH = {F32: torch.float32, F16: torch.float16, BF16: torch.bfloat16}


def struct(name, fields):
    return type(name, (ctypes.Structure,), {"_fields_": fields})


def fields(**kinds):
    return list(kinds.items())


RmsNorm = struct(
    "RmsNorm",
    fields(x=P, add=P, weight=P, gather=P, y=P, add_type=I, y_type=I, eps=F, rows=I, dim=I),
)
ResidualAdd = struct("ResidualAdd", fields(x=P, y=P, y_type=I, rows=I, dim=I))
GatherRows = struct("GatherRows", fields(x=P, index=P, out=P, rows=I, dim=I))
RopeAngles = struct(
    "RopeAngles", fields(frequency=P, positions=P, angles=P, magnitude=D, rows=I, pairs=I)
)
RotateWrite = struct(
    "RotateWrite",
    fields(
        qkv=P, bias=P, q_norm=P, k_norm=P, angles=P, targets=P, q_f32=P, q_bf16=P, q_f16=P,
        not_finite=P, zone_layer=Z, layer=I, qkv_type=I, eps=F, rows=I, heads=I, kv_heads=I,
        head_dim=I, rope_dim=I,
    ),
)
SwiGlu = struct("SwiGlu", fields(gate_up=P, y=P, type=I, y_type=I, rows=I, ff_dim=I, run=I))
Sampling = struct(
    "Sampling",
    fields(logits=P, rows=P, recent=P, out=P, tokens=P, logits_stride=Z, vocab_size=I, row_count=I),
)
ModelConfig = struct(
    "ModelConfig",
    [(n, I) for n in "architecture layers dim ff_dim heads kv_heads head_dim vocab_size".split()]
    + [(n, I) for n in "context_tokens_max rope_dim rope_order rope_scaling".split()]
    + [(n, F) for n in "rms_eps rope_base rope_scale yarn_original_context".split()]
    + [(n, F) for n in "yarn_beta_fast yarn_beta_slow yarn_attention_factor".split()]
    + [(n, I) for n in "tied_embeddings qkv_bias qk_norm rope_factors reserved".split()],
)
SamplingParams = struct(
    "SamplingParams",
    fields(
        temperature=F, top_k=I, top_p=F, min_p=F, repetition_penalty=F, repetition_window=I,
        seed=ctypes.c_uint64,
    ),
)
SAMPLE_ROW = np.dtype(
    [("seed", "<u8")]
    + [(n, "<f4") for n in ("temperature", "top_p", "min_p", "repetition_penalty")]
    + [(n, "<i4") for n in "top_k position logits_row recent_begin recent_count reserved".split()]
)
SAMPLE_OUT = np.dtype([("token", "<i4"), ("logprob", "<f4"), ("status", "<i4"), ("r", "<i4")])
KV_TARGET = np.dtype([("k", "<u8"), ("v", "<u8"), ("stride", "<i4"), ("r", "<i4")])
assert SAMPLE_ROW.itemsize == 48 and KV_TARGET.itemsize == 24

library = ctypes.CDLL(os.environ["LEANEDGE_CUDA_LIBRARY"])
library.harness_rope_table.restype = D
sizes = (I * 8)()
library.harness_row_sizes(sizes)
for i, kind in enumerate(
    (RmsNorm, ResidualAdd, GatherRows, RopeAngles, RotateWrite, SwiGlu, Sampling, ModelConfig)
):
    assert sizes[i] == ctypes.sizeof(kind), (kind.__name__, sizes[i], ctypes.sizeof(kind))

generator = torch.Generator(device="cuda").manual_seed(7)


def at(tensor):
    return None if tensor is None else tensor.data_ptr()


def launch(name, call, expect=0):
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    code = getattr(library, "harness_" + name)(ctypes.byref(call), stream)
    assert code == expect, f"{name}: cudaError {code}, expected {expect}"


def random(*shape, scale=1.0, dtype=torch.float32):
    return (torch.randn(*shape, generator=generator, device="cuda") * scale).to(dtype)


def poison(*shape, dtype=torch.float32):
    return torch.full(shape, float("nan"), device="cuda", dtype=dtype)


def bytes_of(array):
    return torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8).cuda()
