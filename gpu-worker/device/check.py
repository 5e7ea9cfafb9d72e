"""Every kernel against a reference in float64 (decode attention) or against the scalar reference's
bytes (page flush). Prints a line a case and `N passed, N failed, N skipped`."""

import ctypes
import json
import os
import sys

import numpy as np
import torch

from harness import (
    SLOTS,
    STORAGES,
    Layer,
    Plan,
    Step,
    archive_pages,
    error,
    flush_jobs,
    library,
    pointer,
    scratch,
)

# Relative error of an output row of one head, in the Euclidean norm. q, probabilities and folded
# scales are f16 operands: 2^-11 each at worst.
BOUND = 4e-3
results = []


def report(name, ok, note=""):
    results.append((name, bool(ok)))
    print(f"{'ok  ' if ok else 'FAIL'} {name} {note}", flush=True)


def generator(seed):
    return torch.Generator(device="cuda").manual_seed(seed)


def random_arena(plan, layer, blocks, gen):
    """Blocks of one layer with random codes and plausible scales; poison where no section lies."""
    size = plan.layer_bytes[layer]
    arena = torch.randint(0, 256, (blocks, size), dtype=torch.uint8, device="cuda", generator=gen)

    def put(at, values):
        data = values.to(torch.float16).contiguous().view(torch.uint8).reshape(blocks, -1)
        arena[:, at : at + data.shape[1]] = data

    def normal(n, std):
        return torch.randn((blocks, n), device="cuda", generator=gen) * std

    for head in plan.heads[layer]:
        w, groups = head["width"], (plan.head_dim + 31) // 32
        if w == 0:
            continue
        if plan.k == 0:
            put(head["k_values"], normal(w * SLOTS, 1.0))
        else:
            span = 4.0 * torch.rand((blocks, w), device="cuda", generator=gen) + 0.1
            put(head["k_scale"], span / ((1 << (16 >> plan.k)) - 1))
            put(head["k_min"], -span / 2 + normal(w, 0.3))
        if plan.v == 0:
            put(head["v_values"], normal(plan.head_dim * SLOTS, 1.0))
        else:
            span = 4.0 * torch.rand((blocks, groups * SLOTS), device="cuda", generator=gen) + 0.1
            put(head["v_scale"], span / ((1 << (16 >> plan.v)) - 1))
            put(head["v_min"], -span / 2 + normal(groups * SLOTS, 0.3))
    return arena


def codes(runs, bits, n):
    """Planar codes: runs (..., n * bits / 8) bytes to (..., n)."""
    parts = [(runs >> (bits * i)) & ((1 << bits) - 1) for i in range(8 // bits)]
    return torch.cat(parts, dim=-1)[..., :n]


def unpack(plan, layer, h, blocks):
    """K (slots, width) and V (slots, head_dim) in float64 of blocks (pages, layer_bytes)."""
    head, dim, pages = plan.heads[layer][h], plan.head_dim, blocks.shape[0]
    w = head["width"]

    def f16(at, n):
        return blocks[:, at : at + 2 * n].contiguous().view(torch.float16).to(torch.float64)

    if plan.k == 0:
        k = f16(head["k_values"], w * SLOTS).reshape(pages, w, SLOTS)
    else:
        bits = 16 >> plan.k
        runs = blocks[:, head["k_values"] : head["k_values"] + w * 4 * bits].reshape(
            pages, w, 4 * bits
        )
        k = f16(head["k_min"], w)[..., None] + f16(head["k_scale"], w)[..., None] * codes(
            runs, bits, 32
        )
    if plan.v == 0:
        v = f16(head["v_values"], dim * SLOTS).reshape(pages, SLOTS, dim)
    else:
        bits, groups = 16 >> plan.v, dim // 32
        runs = blocks[:, head["v_values"] : head["v_values"] + SLOTS * dim * bits // 8]
        code = codes(runs.reshape(pages, SLOTS, groups, 4 * bits), bits, 32)
        scale = f16(head["v_scale"], groups * SLOTS).reshape(pages, groups, SLOTS).transpose(1, 2)
        low = f16(head["v_min"], groups * SLOTS).reshape(pages, groups, SLOTS).transpose(1, 2)
        v = (low[..., None] + scale[..., None] * code).reshape(pages, SLOTS, dim)
    return k.transpose(1, 2).reshape(-1, w), v.reshape(-1, dim)


class Sequence:
    """Zones of one sequence as an engine would hold them: sink, ring, page table; rest is NaN."""

    def __init__(self, plan, tokens, free, gen, layers):
        self.tokens = tokens
        self.pages = archive_pages(tokens, plan.sink, plan.recent)
        self.table = free[: self.pages].to(torch.int32).contiguous()
        self.sink_rows = min(tokens, plan.sink)
        ring_rows = plan.recent + SLOTS
        rest = tokens - self.sink_rows - SLOTS * self.pages
        start = (SLOTS * self.pages) % ring_rows
        first = min(rest, ring_rows - start)
        shape = lambda rows: (layers, plan.kv_heads, max(rows, 1), plan.head_dim)
        make = lambda rows: torch.randn(shape(rows), device="cuda", generator=gen).to(torch.float16)
        # One tensor holds all four parts of all layers at one pitch.
        parts = [make(plan.sink), make(plan.sink), make(ring_rows), make(ring_rows)]
        for part in parts[:2]:
            part[:, :, self.sink_rows :] = float("nan")
        used = torch.zeros(ring_rows, dtype=torch.bool, device="cuda")
        used[start : start + first] = True
        used[: rest - first] = True
        for part in parts[2:]:
            part[:, :, ~used] = float("nan")
        self.zone = torch.cat([part.reshape(layers, -1) for part in parts], dim=1).contiguous()
        self.pitch = self.zone.shape[1]
        base = self.zone.data_ptr()
        at = [0]
        for part in parts:
            at.append(at[-1] + part[0].numel())
        dim = plan.head_dim
        spans = []
        if self.sink_rows:
            spans.append((base + 2 * at[0], base + 2 * at[1], max(plan.sink, 1), self.sink_rows))
        if first:
            spans.append(
                (
                    base + 2 * (at[2] + start * dim),
                    base + 2 * (at[3] + start * dim),
                    ring_rows,
                    first,
                )
            )
        if rest - first:
            spans.append((base + 2 * at[2], base + 2 * at[3], ring_rows, rest - first))
        self.spans = spans
        order = torch.cat(
            [torch.arange(start, start + first), torch.arange(0, rest - first)]
        ).cuda()
        self.k = torch.cat([parts[0][:, :, : self.sink_rows], parts[2][:, :, order]], dim=2)
        self.v = torch.cat([parts[1][:, :, : self.sink_rows], parts[3][:, :, order]], dim=2)

    def row(self):
        return self.spans, self.table.data_ptr(), self.pages


def reference(plan, layer, sequences, arena, q, heads):
    out = torch.empty_like(q, dtype=torch.float64)
    group = heads // plan.kv_heads
    for i, sequence in enumerate(sequences):
        for h in range(plan.kv_heads):
            query = q[i, h * group : (h + 1) * group].to(torch.float64)
            k, v = sequence.k[layer, h].double(), sequence.v[layer, h].double()
            scores = [query @ k.T]
            values = [v]
            if plan.heads[layer][h]["width"] and sequence.pages:
                kept = torch.tensor(plan.kept[layer][h], device="cuda")
                pk, pv = unpack(plan, layer, h, arena[sequence.table.long()])
                scores.append(query[:, kept] @ pk.T)
                values.append(pv)
            p = torch.softmax(torch.cat(scores, dim=1) / plan.head_dim**0.5, dim=1)
            out[i, h * group : (h + 1) * group] = p @ torch.cat(values)
    return out


def random_kept(widths, head_dim, seed):
    rng = np.random.default_rng(seed)
    return [
        [sorted(rng.choice(head_dim, w, replace=False).tolist()) for w in layer] for layer in widths
    ]


def check_decode(name, plan, heads, lengths, seed, layer=None, sharp=1.0):
    gen = generator(seed)
    layer = plan.layers - 1 if layer is None else layer
    pages = [archive_pages(n, plan.sink, plan.recent) for n in lengths]
    blocks = sum(pages) + 3
    arena = random_arena(plan, layer, blocks, gen)
    free = torch.randperm(blocks, device="cuda", generator=gen)
    sequences, at = [], 0
    for n, count in zip(lengths, pages):
        sequences.append(Sequence(plan, n, free[at : at + count], gen, plan.layers))
        at += count
    arena[free[at:]] = 0xFF
    step = Step([s.row() for s in sequences])
    q = torch.randn((len(lengths), heads, plan.head_dim), device="cuda", generator=gen) * sharp
    work = scratch(len(lengths), plan.kv_heads, plan.head_dim)
    ready = Layer(plan, layer, heads)
    outs = []
    for _ in range(2):
        out = torch.full_like(q, float("nan"))
        ready.launch(step, arena.data_ptr(), q, out, work, sequences[0].pitch)
        torch.cuda.synchronize()
        outs.append(out)
    rounded = torch.full_like(q, float("nan"), dtype=torch.bfloat16)
    ready.launch(step, arena.data_ptr(), q, rounded, work, sequences[0].pitch)
    torch.cuda.synchronize()
    want = reference(plan, layer, sequences, arena, q, heads)
    errors = (outs[0].double() - want).norm(dim=2) / want.norm(dim=2)
    worst = errors.max().item()
    same = torch.equal(outs[0].view(torch.int32), outs[1].view(torch.int32))
    alike = torch.equal(rounded, outs[0].to(torch.bfloat16))
    ok = worst < BOUND and same and alike  # NaN fails
    report(
        name,
        ok,
        f"error {worst:.1e}{'' if same else ' DIFFERS BETWEEN RUNS'}"
        f"{'' if alike else ' BF16 DIFFERS'} shape {ready.shape()}",
    )
    return worst


def decode_cases(small):
    rng = np.random.default_rng(1)
    lengths = lambda batch, top: (
        np.exp(rng.uniform(0, np.log(top), batch)).astype(int).clip(1, top).tolist()
    )
    widths = {128: [[0, 128, 32, 64], [96, 16, 48, 112]], 64: [[0, 64, 32, 16], [48, 16, 64, 0]]}
    for dim in (128, 64):
        for k in range(4):
            for v in range(4):
                plan = Plan(random_kept(widths[dim], dim, 7), dim, 16, 112, k, v)
                group = (4, 7, 1, 8)[(k + v) % 4]
                batch = [1, 129, 161, 300, 1000] + ([] if small else lengths(12, 20000))
                check_decode(
                    f"decode d{dim} K {STORAGES[k]} V {STORAGES[v]} group {group}",
                    plan,
                    4 * group,
                    batch,
                    100 + 16 * k + v,
                )
    plan = Plan(random_kept([[128, 0, 16]], 128, 3), 128, 0, 1, 2, 3)
    check_decode("decode no sink, recent 1", plan, 6, [1, 2, 32, 33, 34, 65, 700], 5)
    plan = Plan(random_kept([[0, 0]], 128, 3), 128, 16, 112, 2, 2)
    check_decode("decode streaming heads only", plan, 8, [1, 17, 5000], 6)
    plan = Plan(random_kept([[32, 128]], 128, 3), 128, 16, 112, 0, 0, selects=True)
    check_decode("decode f16 with bounds in the page", plan, 8, [400, 3000], 8)
    plan = Plan(random_kept([[32, 96]], 128, 3), 128, 16, 112, 2, 2)
    check_decode("decode sharp scores", plan, 8, [4000, 9000], 9, sharp=8.0)
    if small:
        return
    masks = os.environ.get("LEANEDGE_MASKS", "")
    for file, heads in (
        ("llama-3.1-8b-instruct.leank.json", 32),
        ("qwen2.5-7b-instruct.leank.json", 28),
    ):
        path = os.path.join(masks, file)
        if not os.path.exists(path):
            continue
        kept = json.load(open(path))["kept"]
        for k, v in ((0, 0), (1, 1), (2, 2), (3, 3), (2, 3)):
            plan = Plan(kept[9:11], 128, 16, 112, k, v)
            check_decode(
                f"decode {file[:5]} {STORAGES[k]}/{STORAGES[v]} batch 128 to 70,000",
                plan,
                heads,
                lengths(127, 8000) + [70000],
                40 + k,
            )
            check_decode(
                f"decode {file[:5]} {STORAGES[k]}/{STORAGES[v]} one of 70,000",
                plan,
                heads,
                [70000],
                50 + k,
            )


def check_flush(name, plan, gen, jobs_count, poison=False):
    stride = plan.recent + SLOTS
    shape = (jobs_count, 2, plan.layers, plan.kv_heads, stride, plan.head_dim)
    rows = torch.randn(shape, device="cuda", generator=gen)
    rows *= torch.exp2(
        torch.randint(-16, 9, shape[:-1] + (1,), device="cuda", generator=gen).float()
    )
    rows = rows.to(torch.float16)
    rows[0, :, 0, 0, :, ::5] = 0.0
    rows[0, :, 0, 0, ::2, 0] = -0.0
    rows[-1, :, -1, -1] = torch.randint(
        -4, 5, rows[-1, :, -1, -1].shape, device="cuda", generator=gen
    ).half()
    rows[-1, :, 0, 0, :, 1] = 60000.0 * (1 - 2 * (torch.arange(stride, device="cuda") % 2).half())
    if poison:
        rows[0, 1, 0, 0, 3, 5] = float("inf")
    zone = plan.kv_heads * stride * plan.head_dim
    starts = [(7 * i + 1) % stride for i in range(jobs_count)]
    blocks = jobs_count + 2
    numbers = torch.randperm(blocks)[:jobs_count].tolist()
    base = rows.data_ptr()
    jobs = flush_jobs(
        [
            (
                base + 2 * rows[i, 0].storage_offset(),
                base + 2 * rows[i, 1].storage_offset(),
                stride,
                starts[i],
                numbers[i],
            )
            for i in range(jobs_count)
        ]
    )
    arenas = [
        torch.full((blocks, max(size, 16)), 0xA5, dtype=torch.uint8, device="cuda")
        for size in plan.layer_bytes
    ]
    table = torch.tensor([a.data_ptr() for a in arenas], dtype=torch.int64).cuda()
    bad = torch.zeros(1, dtype=torch.int32, device="cuda")
    code = library.harness_flush(
        plan.handle,
        pointer(plan.device),
        pointer(jobs),
        jobs_count,
        pointer(table),
        ctypes.c_size_t(zone),
        pointer(bad),
        ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
    )
    torch.cuda.synchronize()
    if poison:
        report(name, code == 0 and bad.item() == 1, f"{bad.item()} head blocks refused")
        return
    host = rows.cpu().numpy().view(np.uint16)
    wrong = 0
    for i in range(jobs_count):
        order = (starts[i] + np.arange(SLOTS)) % stride
        for l in range(plan.layers):
            want = np.full(plan.layer_bytes[l], 0xA5, dtype=np.uint8)
            for h in range(plan.kv_heads):
                k = np.ascontiguousarray(host[i, 0, l, h][order])
                v = np.ascontiguousarray(host[i, 1, l, h][order])
                if (
                    library.harness_pack(
                        plan.handle,
                        l,
                        h,
                        k.ctypes.data_as(ctypes.c_void_p),
                        v.ctypes.data_as(ctypes.c_void_p),
                        want.ctypes.data_as(ctypes.c_void_p),
                    )
                    != 0
                ):
                    raise RuntimeError(error())
            got = arenas[l][numbers[i], : plan.layer_bytes[l]].cpu().numpy()
            wrong += int((got != want).sum())
    report(name, code == 0 and wrong == 0 and bad.item() == 0, f"{wrong} bytes differ")


def flush_cases():
    gen = generator(3)
    for dim in (128, 64):
        widths = {128: [[0, 128, 32], [96, 16, 64]], 64: [[0, 64, 32], [48, 16, 64]]}[dim]
        for k in range(4):
            for v in range(4):
                plan = Plan(
                    random_kept(widths, dim, 7), dim, 16, 40, k, v, selects=(k + v) % 2 == 1
                )
                check_flush(f"flush d{dim} K {STORAGES[k]} V {STORAGES[v]}", plan, gen, 5)
    check_flush(
        "flush refuses infinity",
        Plan(random_kept([[128, 16]], 128, 7), 128, 16, 40, 2, 2),
        gen,
        3,
        poison=True,
    )


def main():
    small = "--small" in sys.argv
    decode_cases(small)
    flush_cases()
    failed = sum(not ok for _, ok in results)
    print(f"{len(results) - failed} passed, {failed} failed, 0 skipped")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
