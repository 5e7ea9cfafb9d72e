"""Page quantisation against the engine's golden file, bit for bit."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from leanedge_train.pages import PAGE_SLOTS, levels_of, quantise, quantise_k, stored_v

GOLDEN = Path(__file__).parents[2] / "engine" / "testdata" / "pages-v1.bin"
STORAGES = ("f16", "int8", "int4", "int2")
ABSENT = 0xFFFFFFFF


def u32(value: int) -> int:
    return value & 0xFFFFFFFF


def multiply(a: int, b: int) -> int:
    return u32(a * b)


def stream(seed: int, layer: int, head: int, part: int):
    """splitmix32, as src/engine/page/testing/golden.ts makes its rows."""
    state = seed ^ multiply(layer + 1, 0x9E3779B1) ^ multiply(head + 1, 0x85EBCA77)
    state ^= multiply(part + 1, 0xC2B2AE3D)
    while True:
        state = u32(state + 0x9E3779B9)
        z = multiply(state ^ (state >> 16), 0x21F0AAAD)
        z = multiply(z ^ (z >> 15), 0x735A2D97)
        yield z ^ (z >> 15)


def value(kind: int, random: int) -> int:
    """binary16 bits of a kind: ordinary, narrow, wide, subnormal, extreme, constant."""
    sign, mantissa = (random >> 16) & 0x8000, random & 0x3FF
    if kind < 3:
        return sign | ((12 + ((random >> 20) & 3)) << 10) | mantissa
    if kind == 3:
        return 0x4900 | (random & 0xFF)
    if kind == 4:
        return sign | ((1 + ((random >> 20) % 29)) << 10) | mantissa
    if kind == 5:
        return sign | (random & 3)
    if kind == 6:
        return 0x7BFF if random & 1 == 0 else 0xFBFF
    return 0xBC00


def rows(seed: int, layer: int, head: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    next_k, next_v = stream(seed, layer, head, 0), stream(seed, layer, head, 1)
    k, v = np.zeros((2, PAGE_SLOTS, dim), dtype=np.uint16)
    for slot in range(PAGE_SLOTS):
        for channel in range(dim):
            k[slot, channel] = value((channel >> 1) % 8, next(next_k))
            v[slot, channel] = value((slot + (channel >> 5)) % 8, next(next_v))
    half = [torch.from_numpy(x.view(np.float16).copy()) for x in (k, v)]
    return half[0], half[1]


def cases():
    """(name, plan's k and v storage, head_dim, seed, heads, page): every case of the file."""
    data = GOLDEN.read_bytes()
    count = struct.unpack_from("<I", data, 8)[0]
    at = 16
    for _ in range(count):
        name = data[at : at + 48].rstrip(b"\0").decode()
        seed, plan_bytes, page_bytes, _ = struct.unpack_from("<4I", data, at + 48)
        plan = data[at + 112 : at + 112 + plan_bytes]
        page = data[at + 112 + plan_bytes : at + 112 + plan_bytes + page_bytes]
        at += 112 + plan_bytes + page_bytes
        yield name, seed, plan, page


def unpack(data: bytes, bits: int, runs: int, run: int) -> np.ndarray:
    """Codes packed planar within runs -> (runs, run)."""
    packed = np.frombuffer(data, dtype=np.uint8).reshape(runs, -1)
    shifts = [(packed >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.concatenate(shifts, axis=1)[:, :run]


def halves(data: bytes, at: int, count: int) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(data, np.float16, count, at).copy()).float()


CASES = [case for case in cases() if b"evicting" not in case[0].encode()]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_codes_scales_and_minima_are_the_engines(case) -> None:
    _, seed, plan, page = case
    layers, kv_heads, dim = struct.unpack_from("<3I", plan, 12)
    storage_k, storage_v = (STORAGES[i] for i in struct.unpack_from("<2I", plan, 32))
    heads_at = 80 + 8 * layers
    channels_at = heads_at + 56 * layers * kv_heads
    for layer in range(layers):
        block = struct.unpack_from("<I", plan, 80 + 8 * layer)[0]
        for head in range(kv_heads):
            entry = struct.unpack_from("<14I", plan, heads_at + 56 * (layer * kv_heads + head))
            width, first = entry[0], entry[1]
            if width == 0:
                continue
            kept = np.frombuffer(plan, np.uint16, width, channels_at + 2 * first).astype(np.int64)
            k, v = rows(seed, layer, head, dim)
            at = [block + offset for offset in entry[4:11]]
            if storage_k != "f16":
                bits = {255: 8, 15: 4, 3: 2}[levels_of(storage_k)]
                packed = quantise_k(k[:, kept], storage_k)
                size = width * PAGE_SLOTS * bits // 8
                codes = unpack(page[at[0] : at[0] + size], bits, width, PAGE_SLOTS)
                assert np.array_equal(packed.codes[0].numpy().T, codes)
                assert torch.equal(packed.scale.flatten(), halves(page, at[1], width))
                assert torch.equal(packed.low.flatten(), halves(page, at[2], width))
            if storage_v != "f16":
                bits = {255: 8, 15: 4, 3: 2}[levels_of(storage_v)]
                row_bytes = dim * bits // 8
                values = torch.zeros(PAGE_SLOTS, dim)
                for group, part in enumerate(v.split(32, -1)):
                    packed = quantise(part, -1, storage_v)
                    scales = halves(page, at[5] + 64 * group, PAGE_SLOTS)
                    lows = halves(page, at[6] + 64 * group, PAGE_SLOTS)
                    assert torch.equal(packed.scale[:, 0], scales)
                    assert torch.equal(packed.low[:, 0], lows)
                    offset, size = 32 * group * bits // 8, part.shape[1] * bits // 8
                    for slot in range(PAGE_SLOTS):
                        begin = at[4] + slot * row_bytes + offset
                        codes = unpack(page[begin : begin + size], bits, 1, part.shape[1])[0]
                        assert np.array_equal(packed.codes[slot].numpy(), codes)
                    values[:, 32 * group : 32 * group + part.shape[1]] = packed.values()
                assert torch.equal(values, stored_v(v, storage_v))


def test_a_scale_is_the_smallest_that_covers_the_group() -> None:
    generator = torch.Generator().manual_seed(5)
    rows_ = torch.randn(64, 500, generator=generator) * 10 ** torch.linspace(-6, 4, 500)
    rows_ = rows_.clamp(-65504, 65504)
    for storage in STORAGES[1:]:
        packed = quantise(rows_, 0, storage)
        span = rows_.half().double().amax(0) - rows_.half().double().amin(0)
        scale = packed.scale[0].half()
        assert bool((scale.double() * levels_of(storage) >= span).all())
        below = (scale.view(torch.int16) - 1).clamp(min=0).view(torch.float16)
        assert bool(((below.double() * levels_of(storage) < span) | (scale == 0)).all())
        assert bool((packed.codes <= levels_of(storage)).all())
