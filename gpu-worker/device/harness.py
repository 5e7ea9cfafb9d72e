"""The kernels and the scalar reference as Python sees them: plans, rows of a step, launches."""

import ctypes
import os
import struct

import numpy as np
import torch

STORAGES = ("f16", "int8", "int4", "int2")
SLOTS = 32
TILE_ROWS = 8
NO_SECTION = 0xFFFFFFFF
HEAD_FIELDS = "width channels offset bytes k_values k_scale k_min k_max v_values v_scale v_min count positions reserved".split()
ROW = np.dtype(
    {
        "names": ["spans", "pages", "page_count", "span_count"],
        "formats": [
            (
                np.dtype([("k", "<u8"), ("v", "<u8"), ("stride", "<i4"), ("rows", "<i4")]),
                (4,),
            ),
            "<u8",
            "<i4",
            "<i4",
        ],
    }
)
assert ROW.itemsize == 112

library = ctypes.CDLL(os.environ["LEANEDGE_CUDA_LIBRARY"])
for _name in ("harness_plan", "harness_decode_layer", "harness_error"):
    getattr(library, _name).restype = ctypes.c_void_p
library.harness_plan_bytes.restype = ctypes.c_size_t
library.harness_decode_scratch.restype = ctypes.c_size_t


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


def error():
    return ctypes.string_at(library.harness_error()).decode()


class Plan:
    """A plan's block on host and device, with the offsets of its sections."""

    def __init__(self, kept, head_dim, sink, recent, k, v, selects=False, per_step=64, floor=None):
        self.layers, self.kv_heads = len(kept), len(kept[0])
        self.head_dim, self.sink, self.recent, self.k, self.v = head_dim, sink, recent, k, v
        widths = np.array([[len(head) for head in layer] for layer in kept], dtype=np.uint32)
        channels = np.array([c for layer in kept for head in layer for c in head], dtype=np.uint16)
        self.handle = ctypes.c_void_p(
            library.harness_plan(
                self.layers,
                self.kv_heads,
                head_dim,
                sink,
                recent,
                k,
                v,
                per_step if selects else 0,
                (per_step if floor is None else floor) if selects else 0,
                widths.ctypes.data_as(ctypes.c_void_p),
                channels.ctypes.data_as(ctypes.c_void_p),
            )
        )
        if not self.handle.value:
            raise ValueError(error())
        self.size = library.harness_plan_bytes(self.handle)
        block = ctypes.string_at(self.handle, self.size)
        self.device = torch.frombuffer(bytearray(block), dtype=torch.uint8).cuda()
        self.layer_bytes = [
            struct.unpack_from("<II", block, 80 + 8 * l)[1] for l in range(self.layers)
        ]
        at = 80 + 8 * self.layers
        self.heads = [
            [
                dict(
                    zip(
                        HEAD_FIELDS,
                        struct.unpack_from("<14I", block, at + 56 * (l * self.kv_heads + h)),
                    )
                )
                for h in range(self.kv_heads)
            ]
            for l in range(self.layers)
        ]
        self.channels_at = at + 56 * self.layers * self.kv_heads
        self.kept = kept
        self.per_step = per_step if selects else 0
        self.floor = (per_step if floor is None else floor) if selects else 0

    @property
    def channels(self):
        return ctypes.c_void_p(self.device.data_ptr() + self.channels_at)


class Layer:
    """One layer of a plan, ready to launch."""

    def __init__(self, plan, layer, heads):
        self.handle = ctypes.c_void_p(library.harness_decode_layer(plan.handle, layer, heads))
        if not self.handle.value:
            raise ValueError(error())
        self.plan, self.layer, self.heads = plan, layer, heads

    def shape(self):
        out = (ctypes.c_int32 * 3)()
        library.harness_decode_shape(self.handle, out)
        return tuple(out)

    def launch(
        self, step, arena, q, out, scratch, zone_layer, zone_index=None, overlap=1, table_pitch=0
    ):
        code = library.harness_decode(
            self.handle,
            pointer(step.rows),
            pointer(step.tiles),
            pointer(step.pages),
            step.count,
            self.plan.channels,
            ctypes.c_void_p(arena),
            pointer(q),
            pointer(out),
            pointer(scratch),
            ctypes.c_size_t(zone_layer),
            self.layer if zone_index is None else zone_index,
            self.heads,
            table_pitch,
            overlap,
            int(out.dtype == torch.bfloat16),
            step.pages_most,
            ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
        )
        if code != 0:
            raise RuntimeError(f"launch failed: {code}")


def archive_pages(tokens, sink, recent):
    return max(0, (tokens - sink - recent) // SLOTS)


class Step:
    """The device arrays of a step. rows: list of (spans, page table address, pages); a span is
    (k address, v address, stride, rows)."""

    def __init__(self, rows):
        array = np.zeros(len(rows), dtype=ROW)
        tiles, pages = [0], [0]
        for i, (spans, table, page_count) in enumerate(rows):
            for s, span in enumerate(spans):
                array[i]["spans"][s] = span
            array[i]["span_count"] = len(spans)
            array[i]["pages"] = table
            array[i]["page_count"] = page_count
            full = sum(span[3] for span in spans)
            tiles.append(tiles[-1] + -(-full // TILE_ROWS))
            pages.append(pages[-1] + page_count)
        self.rows = torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8).cuda()
        self.tiles = torch.tensor(tiles, dtype=torch.int32).cuda()
        self.pages = torch.tensor(pages, dtype=torch.int32).cuda()
        self.count = len(rows)
        self.tiles_all, self.pages_all = tiles[-1], pages[-1]
        self.pages_most = max(page_count for _, _, page_count in rows)


def scratch(rows, kv_heads, head_dim):
    return torch.zeros(
        library.harness_decode_scratch(rows, kv_heads, head_dim), dtype=torch.uint8, device="cuda"
    )


def flush_jobs(jobs):
    """PageFlushJob array on the device; a job is (k address, v address, stride, row, page)."""
    layout = np.dtype(
        [
            ("k", "<u8"),
            ("v", "<u8"),
            ("stride", "<i4"),
            ("row", "<i4"),
            ("page", "<u4"),
            ("reserved", "<i4"),
        ]
    )
    array = np.zeros(len(jobs), dtype=layout)
    for i, job in enumerate(jobs):
        for name, value in zip(("k", "v", "stride", "row", "page"), job):
            array[i][name] = value
    return torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8).cuda()
