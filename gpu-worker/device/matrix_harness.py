"""Matrices as Python sees them: files' rows with random weights, packing, products."""

import ctypes
import os

import torch

FORMS = ("bf16", "f16", "fp8", "int8", "int4")
DTYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "BF16": 30}
# A file's dtype whose values the form keeps exactly, or the widest one.
NATIVE = {"bf16": "BF16", "f16": "F16", "fp8": "F32", "int8": "Q8_0", "int4": "Q4_0"}
OUTPUTS = ("bf16", "f32", "residual", "swiglu")

library = ctypes.CDLL(os.environ["LEANEDGE_CUDA_LIBRARY"])
library.matrix_harness_error.restype = ctypes.c_char_p
library.matrix_harness_bytes.restype = ctypes.c_size_t
library.matrix_harness_context_bytes.restype = ctypes.c_size_t
library.matrix_harness_context.restype = ctypes.c_void_p


def pointer(tensor):
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def stream():
    return ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)


def checked(status):
    if status != 0:
        raise RuntimeError(f"status {status}: {library.matrix_harness_error().decode()}")


def file_rows(dtype, rows, cols, gen, std=0.02):
    """Random rows of a file: raw bytes on the device (uint8, rows x row bytes), values in float64."""
    normal = torch.randn((rows, cols), device="cuda", generator=gen) * std
    if dtype == "F32":
        return normal.view(torch.uint8), normal.double()
    if dtype in ("F16", "BF16"):
        kept = normal.to(torch.float16 if dtype == "F16" else torch.bfloat16)
        return kept.view(torch.uint8), kept.double()
    blocks = cols // 32
    scale = (torch.rand((rows, blocks, 1), device="cuda", generator=gen) + 0.5) * std
    scale = scale.to(torch.float16)
    if dtype == "Q8_0":
        codes = torch.randint(-127, 128, (rows, blocks, 32), device="cuda", generator=gen)
        scale = scale / 64
        raw = torch.cat([scale.view(torch.uint8), codes.to(torch.int8).view(torch.uint8)], 2)
        return raw.reshape(rows, -1).contiguous(), (codes * scale.double()).reshape(rows, cols)
    codes = torch.randint(0, 16, (rows, blocks, 32), device="cuda", generator=gen)
    nibbles = (codes[:, :, :16] | codes[:, :, 16:] << 4).to(torch.uint8)
    if dtype == "Q4_0":
        scale = scale / 4
        raw = torch.cat([scale.view(torch.uint8), nibbles], 2)
        return raw.reshape(rows, -1).contiguous(), ((codes - 8) * scale.double()).reshape(
            rows, cols
        )
    scale = scale / 4
    low = (torch.randn((rows, blocks, 1), device="cuda", generator=gen) * std).to(torch.float16)
    raw = torch.cat([scale.view(torch.uint8), low.view(torch.uint8), nibbles], 2)
    values = codes * scale.double() + low.double()
    return raw.reshape(rows, -1).contiguous(), values.reshape(rows, cols)


class Matrix:
    """A matrix on the device; `fill` poisons it before it is cleared."""

    def __init__(self, form, rows, cols):
        self.form, self.rows, self.cols = FORMS.index(form), rows, cols
        self.bytes = library.matrix_harness_bytes(self.form, rows, cols)
        assert self.bytes > 0, f"{form} {rows} x {cols} is not served"
        self.data = torch.full((self.bytes,), 0xFF, dtype=torch.uint8, device="cuda")
        checked(library.matrix_harness_clear(*self.place(), stream()))

    def place(self):
        return pointer(self.data), self.form, self.rows, self.cols

    def pack(self, raw, dtype, rows, to_row=0, to_step=1, head_dim=0, rope_dim=0):
        part = (ctypes.c_int32 * 6)(DTYPES[dtype], rows, to_row, to_step, head_dim, rope_dim)
        checked(library.matrix_harness_pack(*self.place(), pointer(raw), part, stream()))
        return self

    def values(self, ids=None, first=0, count=None):
        count = len(ids) if ids is not None else self.rows if count is None else count
        out = torch.full((count, self.cols), float("nan"), device="cuda")
        checked(
            library.matrix_harness_rows(
                *self.place(), pointer(ids), pointer(out), first, count, stream()
            )
        )
        return out


class Context:
    def __init__(self):
        size = library.matrix_harness_context_bytes()
        self.scratch = torch.full((size,), 0xFF, dtype=torch.uint8, device="cuda")
        self.handle = ctypes.c_void_p(library.matrix_harness_context(pointer(self.scratch)))
        if not self.handle.value:
            raise RuntimeError(library.matrix_harness_error().decode())

    def product(self, matrix, out, output, x=None, norm=None, bias=None, overlap=1):
        """norm: (residual f32, weight f32, eps)."""
        inputs = (x if x is not None else norm[0]).shape[0]
        checked(
            library.matrix_harness_product(
                self.handle,
                *matrix.place(),
                pointer(x),
                pointer(norm[0] if norm else None),
                pointer(norm[1] if norm else None),
                ctypes.c_float(norm[2] if norm else 0.0),
                inputs,
                pointer(bias),
                pointer(out),
                OUTPUTS.index(output),
                overlap,
                stream(),
            )
        )
