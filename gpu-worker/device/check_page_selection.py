"""Page selection: the choice against scores in float64, then decode attention over what was chosen
against float64 and against the scalar reference. Prints a line a case and `N passed, N failed`."""

import ctypes
import sys
import traceback

import numpy as np
import torch

from check import Sequence, generator, random_arena, random_kept, unpack
from harness import STORAGES, Layer, Plan, archive_pages, library
from selection_steps import SelectingStep, selected_pages

BOUND = 4e-3  # as in check.py
results = []


def report(name, ok, note=""):
    results.append(bool(ok))
    print(f"{'ok  ' if ok else 'FAIL'} {name} {note}", flush=True)


def bounds(plan, layer, h, blocks):
    """Least and greatest value of each kept channel of blocks (pages, layer_bytes), in float64."""
    head = plan.heads[layer][h]
    w = head["width"]

    def f16(at):
        return blocks[:, at : at + 2 * w].contiguous().view(torch.float16).to(torch.float64)

    lo = f16(head["k_min"])
    if plan.k == 0:
        return lo, f16(head["k_max"])
    return lo, lo + f16(head["k_scale"]) * ((1 << (16 >> plan.k)) - 1)


def page_scores(plan, layer, h, blocks, query):
    """Scores (pages) of one row and KV head, and the bound of their error in f32; query (group, dim)."""
    lo, hi = bounds(plan, layer, h, blocks)
    kept = torch.tensor(plan.kept[layer][h], device="cuda")
    q = query.double()[:, None, kept]  # (group, 1, width)
    scores = torch.maximum(q * lo, q * hi).sum(dim=2).max(dim=0).values
    reach = torch.maximum(lo.abs(), hi.abs())
    error = 2 * 2.0**-24 * (kept.numel() + 4) * (q.abs() * reach).sum(dim=2).max(dim=0).values
    return scores, error


def put_bounds(plan, layer, arena, gen):
    """f16 pages of random values carry random bounds too: they need not fit for a check of the choice."""
    for head in plan.heads[layer]:
        if head["width"] == 0:
            continue
        lo = torch.randn((arena.shape[0], head["width"]), device="cuda", generator=gen)
        hi = lo + torch.rand(lo.shape, device="cuda", generator=gen) * 3
        for at, values in ((head["k_min"], lo), (head["k_max"], hi)):
            data = values.to(torch.float16).contiguous().view(torch.uint8)
            arena[:, at : at + data.shape[1]] = data


def chosen_right(plan, layer, case, lists, heads):
    """Whether each list is one that scores within their error allow; a word on the first that is not."""
    group = heads // plan.kv_heads
    for i, sequence in enumerate(case["sequences"]):
        count = selected_pages(plan, sequence.pages)
        place = {int(number): at for at, number in enumerate(sequence.table.tolist())}
        for h in range(plan.kv_heads):
            if plan.heads[layer][h]["width"] == 0 or count == 0:
                continue
            got = [place.get(int(number), -1) for number in lists[i, h, :count]]
            if got != sorted(set(got)) or -1 in got:
                return f"row {i} head {h}: not a list of pages in order: {got[:8]}"
            if count == sequence.pages:
                continue
            if got[-1] != sequence.pages - 1:
                return f"row {i} head {h}: the newest page is not among them"
            scores, error = page_scores(
                plan,
                layer,
                h,
                case["arena"][sequence.table.long()],
                case["q"][i, h * group : (h + 1) * group],
            )
            taken = torch.zeros(sequence.pages, dtype=torch.bool, device="cuda")
            taken[torch.tensor(got, device="cuda")] = True
            left = ~taken
            taken[-1] = False
            if not taken.any():
                continue
            low, high = (scores + error)[taken].min(), (scores - error)[left].max()
            if not low >= high:
                return f"row {i} head {h}: a page of {low:.4f} was read, one of {high:.4f} was not"
            # Of pages that are alike, the older ones.
            same = case["twins"]
            if same and not all(
                taken[a] or left[b]
                for a, b in zip(range(0, same), range(1, same))
                if b < sequence.pages - 1
            ):
                return f"row {i} head {h}: of equal pages the older one was left out"
    return ""


def reference(plan, layer, sequences, arena, q, heads, lists):
    out = torch.empty_like(q, dtype=torch.float64)
    group = heads // plan.kv_heads
    for i, sequence in enumerate(sequences):
        count = selected_pages(plan, sequence.pages)
        for h in range(plan.kv_heads):
            query = q[i, h * group : (h + 1) * group].to(torch.float64)
            k, v = sequence.k[layer, h].double(), sequence.v[layer, h].double()
            scores, values = [query @ k.T], [v]
            if plan.heads[layer][h]["width"] and count:
                kept = torch.tensor(plan.kept[layer][h], device="cuda")
                pk, pv = unpack(plan, layer, h, arena[lists[i, h, :count].long().cuda()])
                scores.append(query[:, kept] @ pk.T)
                values.append(pv)
            p = torch.softmax(torch.cat(scores, dim=1) / plan.head_dim**0.5, dim=1)
            out[i, h * group : (h + 1) * group] = p @ torch.cat(values)
    return out


def scalar(plan, layer, sequences, arena, q, heads):
    """The scalar reference's attention with its own choice of pages."""
    host = arena.cpu().numpy()
    span = np.dtype(
        [
            ("k", "<u8"),
            ("v", "<u8"),
            ("stride", "<i4"),
            ("rows", "<i4"),
            ("first", "<i4"),
            ("pad", "<i4"),
        ]
    )
    out = torch.empty(q.shape, dtype=torch.float32)
    for i, sequence in enumerate(sequences):
        spans, kept = np.zeros(2, dtype=span), []
        sink = sequence.sink_rows
        parts = [(0, sink, 0), (sink, sequence.k.shape[2], sink + 32 * sequence.pages)]
        parts = [part for part in parts if part[1] > part[0]]
        for s, (begin, end, position) in enumerate(parts):
            k = sequence.k[layer, :, begin:end].contiguous().cpu()
            v = sequence.v[layer, :, begin:end].contiguous().cpu()
            kept.extend((k, v))
            spans[s] = (k.data_ptr(), v.data_ptr(), end - begin, end - begin, position, 0)
        pages = [host[number].ctypes.data for number in sequence.table.tolist()]
        addresses = (ctypes.c_void_p * max(len(pages), 1))(*pages)
        query = q[i].contiguous().cpu()
        part = torch.empty((1, heads, plan.head_dim), dtype=torch.float32)
        code = library.harness_reference(
            plan.handle,
            layer,
            heads,
            ctypes.c_void_p(query.data_ptr()),
            ctypes.c_void_p(part.data_ptr()),
            1,
            sequence.tokens - 1,
            addresses,
            len(pages),
            spans.ctypes.data_as(ctypes.c_void_p),
            len(parts),
            int(plan.per_step > 0),
        )
        if code != 0:
            raise RuntimeError("the reference ran out of memory")
        out[i] = part[0]
    return out.cuda().double()


def worst_error(out, want):
    errors = (out.double() - want).norm(dim=2) / want.norm(dim=2)
    return torch.nan_to_num(errors, nan=float("inf")).max().item()


def check_selection(name, plan, heads, lengths, seed, twins=0, against_scalar=False):
    """`twins`: the first so many pages of every sequence are copies of one another."""
    try:
        gen = generator(seed)
        layer = plan.layers - 1
        pages = [archive_pages(n, plan.sink, plan.recent) for n in lengths]
        blocks = sum(pages) + 3
        arena = random_arena(plan, layer, blocks, gen)
        if plan.k == 0:
            put_bounds(plan, layer, arena, gen)
        free = torch.randperm(blocks, device="cuda", generator=gen)
        sequences, at = [], 0
        for n, count in zip(lengths, pages):
            sequences.append(Sequence(plan, n, free[at : at + count], gen, plan.layers))
            arena[sequences[-1].table[:twins].long()] = arena[free[at]].clone()
            at += count
        arena[free[at:]] = 0xFF
        q = torch.randn((len(lengths), heads, plan.head_dim), device="cuda", generator=gen)
        ready = Layer(plan, layer, heads)
        step = SelectingStep(plan, [s.row() for s in sequences], heads)
        outs, all_lists = [], []
        for _ in range(2):
            step.chosen.fill_(-1)
            out = torch.full_like(q, float("nan"))
            step.select(ready, arena.data_ptr(), q)
            step.attend(ready, arena.data_ptr(), q, out, sequences[0].pitch)
            torch.cuda.synchronize()
            outs.append(out)
            all_lists.append(step.lists())
        case = {"sequences": sequences, "arena": arena, "q": q, "twins": twins}
        wrong = chosen_right(plan, layer, case, all_lists[0], heads)
        if wrong:
            report(name, False, wrong)
            return
        worst = worst_error(
            outs[0], reference(plan, layer, sequences, arena, q, heads, all_lists[0])
        )
        same = torch.equal(outs[0].view(torch.int32), outs[1].view(torch.int32))
        note = f"error {worst:.1e}{'' if same else ' DIFFERS BETWEEN RUNS'}"
        ok = worst < BOUND and same
        if against_scalar:
            other = worst_error(outs[0], scalar(plan, layer, sequences, arena, q, heads))
            note += f", of the scalar reference {other:.1e}"
            ok = ok and other < BOUND
        report(name, ok, note)
    except Exception:
        report(name, False, traceback.format_exc(limit=4))


def main():
    small = "--small" in sys.argv
    for dim in (128, 64):
        widths = {
            128: [[0, 128, 32, 64], [96, 16, 48, 112]],
            64: [[0, 64, 32, 16], [48, 16, 64, 0]],
        }
        for k in range(4):
            for v in (2, 3 - k):
                plan = Plan(
                    random_kept(widths[dim], dim, 7), dim, 16, 112, k, v, True, per_step=8, floor=12
                )
                group = (4, 7, 1, 8)[k]
                lengths = [1, 129, 161, 511, 512, 544, 545, 700, 1500] + ([] if small else [9001])
                check_selection(
                    f"selection d{dim} K {STORAGES[k]} V {STORAGES[v]} group {group}",
                    plan,
                    4 * group,
                    lengths,
                    300 + 16 * k + v,
                )
    plan = Plan(random_kept([[32, 80]], 128, 3), 128, 16, 112, 2, 2, True, per_step=1)
    check_selection("selection of the newest page alone", plan, 4, [160, 192, 500, 3000], 5)
    plan = Plan(random_kept([[32, 80]], 128, 3), 128, 16, 112, 2, 2, True, per_step=6)
    check_selection("selection among equal pages", plan, 8, [900, 2000], 6, twins=20)
    for k in range(4):
        for v in range(4):
            plan = Plan(random_kept([[32, 128, 0]], 128, 3), 128, 16, 40, k, v, True, per_step=5)
            check_selection(
                f"selection and reference K {STORAGES[k]} V {STORAGES[v]}",
                plan,
                3 * (1, 4, 7, 2)[(k + v) % 4],
                [30, 130, 216, 250, 600],
                7 + 4 * k + v,
                against_scalar=True,
            )
    for k in range(4):
        plan = Plan(random_kept([[32, 128, 0], [96, 16, 48]], 128, 3), 128, 16, 40, k, 3 - k)
        check_decode_scalar(
            f"decode and reference K {STORAGES[k]} V {STORAGES[3 - k]}", plan, 12, k
        )
    if not small:
        plan = Plan(random_kept([[32, 128]], 128, 3), 128, 16, 112, 2, 2, True, per_step=64)
        check_selection("selection of 64 among 4,096 and more", plan, 8, [131072, 200000, 140], 8)
        plan = Plan(random_kept([[32, 16]] * 2, 128, 3), 128, 16, 112, 2, 2, True, per_step=64)
        check_selection("selection batch 128", plan, 8, [2000 + 37 * i for i in range(128)], 9)
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(0 if all(results) else 1)


def check_decode_scalar(name, plan, heads, seed):
    """Decode attention without selection against the scalar reference, all storages of K and V."""
    try:
        gen = generator(seed)
        lengths = [1, 2, 17, 56, 57, 87, 88, 89, 300, 700]
        pages = [archive_pages(n, plan.sink, plan.recent) for n in lengths]
        layer = plan.layers - 1
        worst = 0.0
        for v in range(4):
            variant = Plan(plan.kept, plan.head_dim, plan.sink, plan.recent, plan.k, v)
            arena = random_arena(variant, layer, sum(pages) + 1, gen)
            free = torch.randperm(sum(pages) + 1, device="cuda", generator=gen)
            sequences, at = [], 0
            for n, count in zip(lengths, pages):
                sequences.append(Sequence(variant, n, free[at : at + count], gen, plan.layers))
                at += count
            q = torch.randn((len(lengths), heads, plan.head_dim), device="cuda", generator=gen)
            step = SelectingStep(variant, [s.row() for s in sequences], heads)
            out = torch.full_like(q, float("nan"))
            Layer(variant, layer, heads).launch(
                step.whole, arena.data_ptr(), q, out, step.work, sequences[0].pitch
            )
            torch.cuda.synchronize()
            want = scalar(variant, layer, sequences, arena, q, heads)
            worst = max(worst, worst_error(out, want))
        report(name.rsplit(" V", 1)[0] + ", all V", worst < BOUND, f"error {worst:.1e}")
    except Exception:
        report(name, False, traceback.format_exc(limit=4))


if __name__ == "__main__":
    main()
