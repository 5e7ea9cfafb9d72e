"""Prefill attention as Python sees it: runs, their tiles, launches; and the same in float64."""

import ctypes

import numpy as np
import torch

from harness import Layer, library, pointer

TYPES = (torch.float32, torch.float16, torch.bfloat16)
SPAN = np.dtype([("k", "<u8"), ("v", "<u8"), ("stride", "<i4"), ("rows", "<i4")])
RUN = np.dtype(
    {
        "names": "before pages k v page_count span_count stride first q_first rows".split(),
        "formats": [(SPAN, (4,))] + ["<u8"] * 3 + ["<i4"] * 6,
    }
)
assert RUN.itemsize == 144
TILE_BYTES = 16
library.harness_prefill_scratch.restype = ctypes.c_size_t


class Segment:
    """Dense rows of one segment of one sequence, of one layer: K and V (kv_heads, stride, head_dim),
    NaN from `rows` on."""

    def __init__(self, kv_heads, head_dim, rows, gen, spare=3):
        self.rows, self.stride = rows, rows + spare
        shape = (2, kv_heads, self.stride, head_dim)
        self.data = torch.randn(shape, device="cuda", generator=gen).to(torch.float16)
        self.data[:, :, rows:] = float("nan")
        self.k, self.v = self.data[0, :, :rows], self.data[1, :, :rows]

    def addresses(self):
        return self.data[0].data_ptr(), self.data[1].data_ptr()


class Runs:
    """The device arrays of a call. runs: list of (before, segment, first, q_first, rows), `before` as
    check.Sequence.row() gives it, or None."""

    def __init__(self, runs, group):
        array = np.zeros(len(runs), dtype=RUN)
        for i, (before, segment, first, q_first, rows) in enumerate(runs):
            spans, table, pages = before or ([], 0, 0)
            for s, span in enumerate(spans):
                array[i]["before"][s] = span
            array[i]["span_count"], array[i]["pages"], array[i]["page_count"] = (
                len(spans),
                table,
                pages,
            )
            array[i]["k"], array[i]["v"] = segment.addresses()
            array[i]["stride"] = segment.stride
            array[i]["first"], array[i]["q_first"], array[i]["rows"] = first, q_first, rows
        host = array.ctypes.data_as(ctypes.c_void_p)
        self.count = library.harness_prefill_tiles(host, len(runs), group, None)
        tiles = np.zeros(self.count * TILE_BYTES, dtype=np.uint8)
        library.harness_prefill_tiles(host, len(runs), group, tiles.ctypes.data_as(ctypes.c_void_p))
        self.runs = torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8).cuda()
        self.tiles = torch.from_numpy(tiles).cuda()
        self.has_pages = int((array["page_count"] > 0).any())
        self.slots_max = int(
            (
                array["before"]["rows"].sum(axis=1)
                + 32 * array["page_count"]
                + array["first"]
                + array["rows"]
            ).max()
        )


def scratch(head_dim):
    return torch.empty(
        library.harness_prefill_scratch(head_dim), dtype=torch.uint8, device="cuda"
    ).fill_(0xFF)


def launch(
    layer: Layer,
    runs,
    q,
    out,
    arena=0,
    zone_layer=0,
    layer_index=None,
    overlap=0,
    work=None,
):
    """q and out (rows, heads, head_dim), any of TYPES; rows may be wider than their heads. work:
    scratch(), for tiles that several thread blocks share."""
    sizes = (ctypes.c_size_t * 3)(q.stride(0), out.stride(0), zone_layer)
    numbers = (ctypes.c_int32 * 8)(
        TYPES.index(q.dtype),
        TYPES.index(out.dtype),
        runs.count,
        layer.layer if layer_index is None else layer_index,
        layer.heads,
        runs.has_pages,
        overlap,
        runs.slots_max,
    )
    code = library.harness_prefill(
        layer.handle,
        pointer(runs.runs),
        pointer(runs.tiles),
        layer.plan.channels,
        ctypes.c_void_p(arena),
        pointer(q),
        pointer(out),
        pointer(work) if work is not None else None,
        sizes,
        numbers,
        ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
    )
    if code != 0:
        raise RuntimeError(f"launch failed: {code}")


def attend(query, k, v, visible, archive, scale):
    """Rows of one head in float64. query (rows, dim) f64; k, v (slots, dim) full rows; row i sees the
    first visible[i] of them, and all of archive = (kept, k, v) or None."""
    scores = query @ k.T
    hidden = torch.arange(k.shape[0], device="cuda")[None] >= visible[:, None]
    scores.masked_fill_(hidden, float("-inf"))
    if archive is not None:
        kept, page_k, page_v = archive
        scores = torch.cat([scores, query[:, kept] @ page_k.T], dim=1)
        v = torch.cat([v, page_v])
    return torch.softmax(scores * scale, dim=1) @ v


def reference(plan, layer, heads, runs, q, arena, unpack):
    """What Runs of `runs` gives, in float64; runs as (sequence or None, segment, first, q_first,
    rows). unpack as in check.py."""
    out = torch.full(q.shape, float("nan"), dtype=torch.float64, device="cuda")
    group = heads // plan.kv_heads
    for sequence, segment, first, q_first, rows in runs:
        for h in range(plan.kv_heads):
            k, v = segment.k[h].double(), segment.v[h].double()
            before, archive = 0, None
            if sequence is not None:
                before = sequence.k.shape[2]
                k = torch.cat([sequence.k[layer, h].double(), k])
                v = torch.cat([sequence.v[layer, h].double(), v])
                if plan.heads[layer][h]["width"] and sequence.pages:
                    kept = torch.tensor(plan.kept[layer][h], device="cuda")
                    archive = (kept, *unpack(plan, layer, h, arena[sequence.table.long()]))
            visible = before + first + 1 + torch.arange(rows, device="cuda")
            for head in range(h * group, (h + 1) * group):
                for at in range(0, rows, 2048):
                    part = slice(at, min(rows, at + 2048))
                    query = q[q_first : q_first + rows][part, head].double()
                    out[q_first : q_first + rows][part, head] = attend(
                        query, k, v, visible[part], archive, plan.head_dim**-0.5
                    )
    return out
