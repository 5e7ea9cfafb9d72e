"""Prefill attention against float64 and against the scalar reference. Prints a line a case and
`N passed, N failed`."""

import ctypes
import sys
import traceback

import numpy as np
import torch

import prefill_runs
from check import Sequence, generator, random_arena, random_kept, unpack
from harness import STORAGES, Layer, Plan, archive_pages, library
from prefill_runs import TYPES, Runs, Segment

# Relative error of an output row of one head, in the Euclidean norm: q, probabilities and values of
# pages are f16. bf16 results are rounded to 8 bits besides.
BOUND = 4e-3
BOUND_BF16 = 7e-3
results = []


def report(name, ok, note=""):
    results.append(bool(ok))
    print(f"{'ok  ' if ok else 'FAIL'} {name} {note}", flush=True)


def guarded(check):
    """Reports an exception as a failed case: the next one may still tell something."""

    def run(name, *arguments, **options):
        try:
            check(name, *arguments, **options)
        except Exception:
            report(name, False, traceback.format_exc(limit=4))

    return run


def worst_error(out, want):
    errors = (out.double() - want).norm(dim=2) / want.norm(dim=2)
    errors = torch.nan_to_num(errors, nan=float("inf"))
    worst = errors.max().item()
    at = divmod(int(errors.argmax()), errors.shape[1])
    return worst, at


class Case:
    """Sequences with their zones, then a segment each. lengths: list of (history, first, rows):
    tokens before the segment, query rows `first` to `first + rows` of it."""

    def __init__(self, plan, layer, heads, lengths, seed, q_type=torch.float32, sharp=1.0):
        gen = generator(seed)
        self.plan, self.layer, self.heads = plan, layer, heads
        pages = [archive_pages(n, plan.sink, plan.recent) for n, _, _ in lengths]
        blocks = sum(pages) + 3
        self.arena = random_arena(plan, layer, blocks, gen)
        free = torch.randperm(blocks, device="cuda", generator=gen)
        self.runs, at, q_first = [], 0, 0
        self.pitch = 0
        for (history, first, rows), count in zip(lengths, pages):
            sequence = None
            if history:
                sequence = Sequence(plan, history, free[at : at + count], gen, plan.layers)
                self.pitch = sequence.pitch
                at += count
            segment = Segment(plan.kv_heads, plan.head_dim, first + rows, gen)
            self.runs.append((sequence, segment, first, q_first, rows))
            q_first += rows
        self.arena[free[at:]] = 0xFF
        self.rows = q_first
        # Rows of q lie among others, as in a product of q, k and v.
        width = (heads + 2 * plan.kv_heads) * plan.head_dim
        whole = torch.randn((self.rows, width), device="cuda", generator=gen) * sharp
        self.q = whole.to(q_type).view(self.rows, -1, plan.head_dim)[:, :heads]

    def launch(self, out_type=torch.float32, work=None):
        runs = Runs(
            [(s.row() if s else None, *rest) for s, *rest in self.runs],
            self.heads // self.plan.kv_heads,
        )
        out = torch.full(self.q.shape, float("nan"), dtype=out_type, device="cuda")
        layer = Layer(self.plan, self.layer, self.heads)
        prefill_runs.launch(layer, runs, self.q, out, self.arena.data_ptr(), self.pitch, work=work)
        torch.cuda.synchronize()
        return out

    def reference(self):
        return prefill_runs.reference(
            self.plan, self.layer, self.heads, self.runs, self.q, self.arena, unpack
        )


@guarded
def check_prefill(
    name, plan, heads, lengths, seed, q_type=torch.float32, out_type=torch.float32, sharp=1.0
):
    case = Case(plan, plan.layers - 1, heads, lengths, seed, q_type, sharp)
    work = prefill_runs.scratch(plan.head_dim)
    outs = [case.launch(out_type, work) for _ in range(2)]
    want = case.reference()
    worst, at = worst_error(outs[0], want)
    same = torch.equal(outs[0].view(torch.uint8), outs[1].view(torch.uint8))
    bound = BOUND_BF16 if out_type == torch.bfloat16 else BOUND
    note = f"error {worst:.1e}{'' if same else ' DIFFERS BETWEEN RUNS'}"
    if not worst < bound:
        got = outs[0][at].tolist()[:4]
        note += f" at row {at[0]} head {at[1]}: {got} for {want[at].tolist()[:4]}"
    report(name, worst < bound and same, note)


def full_kept(layers, kv_heads, head_dim):
    return [[list(range(head_dim))] * kv_heads] * layers


def dense_cases(small):
    for dim in (128, 64):
        for group in (1, 2, 4, 7, 8):
            plan = Plan(full_kept(1, 2, dim), dim, 16, 112, 0, 0)
            lengths = [(0, 0, n) for n in (1, 2, 17, 31, 32, 33, 63, 64, 65, 127, 129)]
            lengths += [(0, f, n) for f, n in ((1, 1), (63, 2), (64, 64), (100, 300), (777, 5))]
            if not small:
                lengths += [(0, 0, 1000), (0, 1024, 1024)]
            check_prefill(
                f"prefill d{dim} group {group} segments alone", plan, 2 * group, lengths, 11
            )
        for q_type in TYPES:
            for out_type in TYPES:
                plan = Plan(full_kept(1, 2, dim), dim, 16, 112, 0, 0)
                check_prefill(
                    f"prefill d{dim} {str(q_type)[6:]} to {str(out_type)[6:]}",
                    plan,
                    8,
                    [(0, 0, 200), (0, 3, 65)],
                    12,
                    q_type,
                    out_type,
                )
        plan = Plan(full_kept(1, 2, dim), dim, 16, 112, 0, 0)
        check_prefill(
            f"prefill d{dim} sharp scores", plan, 8, [(0, 0, 700)], 13, torch.float16, sharp=8.0
        )
        if not small:
            plan = Plan(full_kept(1, 8, dim), dim, 16, 112, 0, 0)
            check_prefill(f"prefill d{dim} one of 4,096", plan, 32, [(0, 0, 4096)], 14)


def zone_cases(small):
    widths = {128: [[0, 128, 32, 64], [96, 16, 48, 112]], 64: [[0, 64, 32, 16], [48, 16, 64, 0]]}
    for dim in (128, 64):
        for k in range(4):
            for v in range(4):
                plan = Plan(random_kept(widths[dim], dim, 7), dim, 16, 112, k, v)
                group = (4, 7, 1, 8)[(k + v) % 4]
                lengths = [(1, 0, 5), (129, 0, 40), (161, 2, 33), (200, 0, 1), (300, 64, 64)]
                if not small:
                    lengths += [(1000, 100, 200), (5003, 0, 130)]
                check_prefill(
                    f"prefill d{dim} K {STORAGES[k]} V {STORAGES[v]} group {group}",
                    plan,
                    4 * group,
                    lengths,
                    100 + 16 * k + v,
                )
        plan = Plan(random_kept([[64, 0, 16]], dim, 3), dim, 0, 1, 2, 3)
        check_prefill(
            "prefill no sink, recent 1", plan, 6, [(33, 0, 3), (700, 5, 70), (0, 0, 9)], 5
        )
        plan = Plan(random_kept([[32, 48]], dim, 3), dim, 16, 112, 0, 0, selects=True)
        check_prefill("prefill f16 with bounds in the page", plan, 8, [(400, 0, 90)], 8)
        plan = Plan(full_kept(1, 2, dim), dim, 16, 112, 0, 0)
        check_prefill("prefill identity archive", plan, 8, [(3000, 0, 300), (160, 0, 1)], 9)
        plan = Plan(random_kept([[32, 64]], dim, 3), dim, 16, 112, 2, 2)
        check_prefill(
            "prefill sharp scores over pages",
            plan,
            8,
            [(4000, 0, 100)],
            9,
            torch.float16,
            sharp=8.0,
        )


def shared_cases():
    """Few tiles that see many slots: several thread blocks share each of them."""
    for dim in (128, 64):
        for group, rows in ((4, 1), (7, 5), (1, 128), (8, 33), (4, 64)):
            kept = random_kept([[32, dim, 0]], dim, 3)
            plan = Plan(kept, dim, 16, 112, 2, 2)
            name = f"prefill d{dim} group {group} shared tiles"
            check_prefill(f"{name} over pages", plan, 3 * group, [(9000, 0, rows)], 21)
            check_prefill(f"{name} over rows", plan, 3 * group, [(0, 5000, rows)], 22)
            check_prefill(
                f"{name} of two runs", plan, 3 * group, [(3001, 100, rows), (20000, 0, 2)], 23
            )


def scalar(case, selects=False):
    """What the scalar reference gives for the runs of a case."""
    plan = case.plan
    arena = case.arena.cpu().numpy()
    out = torch.empty((case.rows, case.heads, plan.head_dim), dtype=torch.float32)
    span_type = np.dtype(
        [
            ("k", "<u8"),
            ("v", "<u8"),
            ("stride", "<i4"),
            ("rows", "<i4"),
            ("first", "<i4"),
            ("pad", "<i4"),
        ]
    )
    for sequence, segment, first, q_first, rows in case.runs:
        history = sequence.tokens if sequence else 0
        spans, kept, pages = np.zeros(4, dtype=span_type), [], []
        count = 0

        def add(k, v, position):
            nonlocal count
            k, v = k.contiguous().cpu(), v.contiguous().cpu()
            kept.extend((k, v))
            spans[count] = (k.data_ptr(), v.data_ptr(), k.shape[1], k.shape[1], position, 0)
            count += 1

        if sequence:
            sink = sequence.sink_rows
            add(sequence.k[case.layer, :, :sink], sequence.v[case.layer, :, :sink], 0)
            if sequence.k.shape[2] > sink:
                add(
                    sequence.k[case.layer, :, sink:],
                    sequence.v[case.layer, :, sink:],
                    sink + 32 * sequence.pages,
                )
            pages = [arena[i].ctypes.data for i in sequence.table.tolist()]
        add(segment.k[:, : first + rows], segment.v[:, : first + rows], history)
        addresses = (ctypes.c_void_p * max(len(pages), 1))(*pages)
        q = case.q[q_first : q_first + rows].float().contiguous().cpu()
        part = torch.empty((rows, case.heads, plan.head_dim), dtype=torch.float32)
        code = library.harness_reference(
            plan.handle,
            case.layer,
            case.heads,
            ctypes.c_void_p(q.data_ptr()),
            ctypes.c_void_p(part.data_ptr()),
            rows,
            history + first,
            addresses,
            len(pages),
            spans.ctypes.data_as(ctypes.c_void_p),
            count,
            int(selects),
        )
        if code != 0:
            raise RuntimeError("the reference ran out of memory")
        out[q_first : q_first + rows] = part
    return out.cuda().double()


@guarded
def check_scalar(name, plan, heads, lengths, seed):
    case = Case(plan, plan.layers - 1, heads, lengths, seed, torch.float16)
    want = scalar(case)
    exact, _ = worst_error(want, case.reference())
    worst, _ = worst_error(case.launch(), want)
    report(name, worst < BOUND and exact < 1e-4, f"error {worst:.1e}, float64 {exact:.1e} off")


def scalar_cases():
    widths = {128: [[0, 128], [96, 16]], 64: [[0, 64], [48, 16]]}
    for dim in (128, 64):
        for k in range(4):
            for v in range(4):
                plan = Plan(random_kept(widths[dim], dim, 7), dim, 16, 40, k, v)
                check_scalar(
                    f"prefill and reference d{dim} K {STORAGES[k]} V {STORAGES[v]}",
                    plan,
                    2 * (4, 7, 1, 2)[(k + v) % 4],
                    [(0, 0, 33), (57, 0, 4), (300, 2, 17)],
                    200 + 16 * k + v,
                )


def main():
    small = "--small" in sys.argv
    dense_cases(small)
    zone_cases(small)
    shared_cases()
    scalar_cases()
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
