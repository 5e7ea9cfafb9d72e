"""Packing against the file's values, products against float64: every form, dtype, epilogue, odd sizes,
poisoned outputs. Prints a line a case and `N passed, N failed`; --small for a short run."""

import sys
import traceback

import torch

from matrix_harness import (
    DTYPES,
    FORMS,
    NATIVE,
    OUTPUTS,
    Context,
    Matrix,
    file_rows,
    library,
)
from measure import captured

NORM_ROWS_MAX = 4  # kMatrixNormRowsMax
GUARD = 1024  # elements before and after an output that must stay as they are
# Relative error in the Euclidean norm of all outputs: sums in f32 (tensor cores add up 14,336 products
# of one sign at worst), and one rounding of all values to bf16 (2^-9 at most, 2^-9 / sqrt(3) seen).
BOUND_F32, BOUND_BF16 = 2e-5, 2e-3
results = []


def report(name, ok, note=""):
    results.append((name, bool(ok)))
    if not ok or note:
        print(f"{'ok  ' if ok else 'FAIL'} {name} {note}", flush=True)


def generator(seed):
    return torch.Generator(device="cuda").manual_seed(seed)


def guarded(case):
    """Runs one case; an exception is a failure of that case only."""

    def run(*args, **kwargs):
        name = f"{case.__name__} {args} {kwargs if kwargs else ''}"
        try:
            ok, note = case(*args, **kwargs)
            report(name, ok, note)
        except Exception:
            report(name, False, traceback.format_exc())

    return run


@guarded
def pack(form, dtype, rows, cols):
    """What a packed matrix gives back."""
    raw, values = file_rows(dtype, rows, cols, generator(rows * 7919 + cols))
    matrix = Matrix(form, rows, cols).pack(raw, dtype, rows)
    got = matrix.values().double()
    if form in ("bf16", "f16"):
        want = values.float().to(torch.bfloat16 if form == "bf16" else torch.float16).double()
        ok = torch.equal(got, want)
    elif NATIVE[form] == dtype:
        ok = torch.equal(got, values.float().double()) if form != "fp8" else None
    else:
        ok = None
    error = (got - values).abs()
    if form == "fp8":
        most = values.abs().amax(1, keepdim=True)
        ok = bool((error <= values.abs() * 2**-4 * 1.001 + most / 448 * 2**-10 * 1.001).all())
    elif ok is None:
        most = values.reshape(rows, cols // 32, 32).abs().amax(2, keepdim=True)
        unit = most / (127 if form == "int8" else 8)
        # Q4_0 has one code less on one side; the f16 scale is off by 2^-11.
        reach = 0.5 if form == "int8" else 1.0
        ok = bool((error.reshape(rows, -1, 32) <= unit * reach + most * 2**-10 + 1e-7).all())
    return ok, f"largest error {error.max():.3g}" if not ok else ""


@guarded
def parts(form):
    """q, k, v one below the other with rotation order; gate and up in turns; rows by id."""
    cols, dtype = 288, NATIVE[form]
    gen = generator(5)
    shapes = (("q", 96, 32, 32), ("k", 64, 32, 24), ("v", 64, 0, 0))
    matrix = Matrix(form, 224, cols)
    want, at = [], 0
    for _, rows, head, rope in shapes:
        raw, values = file_rows(dtype, rows, cols, gen)
        matrix.pack(raw, dtype, rows, to_row=at, head_dim=head, rope_dim=rope)
        if rope:
            order = [c % 2 * (rope // 2) + c // 2 if c < rope else c for c in range(head)]
            placed = torch.empty_like(values).reshape(rows // head, head, cols)
            placed[:, order] = values.reshape(rows // head, head, cols)
            values = placed.reshape(rows, cols)
        want.append(values)
        at += rows
    got = matrix.values().double()
    bound = 0.07 if form == "fp8" else 0
    ok = bool(((got - torch.cat(want)).abs() <= torch.cat(want).abs() * bound + bound * 1e-3).all())
    pair = Matrix(form, 90, cols)
    both = [file_rows(dtype, 45, cols, gen) for _ in range(2)]
    for i in range(2):
        pair.pack(both[i][0], dtype, 45, to_row=i, to_step=2)
    got = pair.values().double()
    for i in range(2):
        ok = ok and bool(
            ((got[i::2] - both[i][1]).abs() <= both[i][1].abs() * bound + bound * 1e-3).all()
        )
    ids = torch.tensor([3, -1, 89, 0, 3], dtype=torch.int32, device="cuda")
    some = pair.values(ids=ids).double()
    ok = ok and bool((some[1] == 0).all())
    ok = ok and torch.equal(some[[0, 2, 3, 4]], got[[3, 89, 0, 3]])
    return ok, ""


def expect(w, x, output, before, bias, norm):
    if norm:
        residual, weight, eps = norm
        x = residual.double()
        x = x * torch.rsqrt((x * x).mean(1, keepdim=True) + eps) * weight.double()
    y = x.double() @ w.double().T
    if bias is not None:
        y = y + bias.double()
    if output == "residual":
        return before.double() + y
    if output == "swiglu":
        return torch.nn.functional.silu(y[:, 0::2]) * y[:, 1::2]
    return y


context = None


@guarded
def product(form, rows, cols, inputs, output="f32", bias=False, norm=False, graph=False):
    gen = generator(rows * 31 + cols * 17 + inputs)
    raw, _ = file_rows(NATIVE[form], rows, cols, gen)
    matrix = Matrix(form, rows, cols).pack(raw, NATIVE[form], rows)
    w = matrix.values()
    x = (torch.randn((inputs, cols), device="cuda", generator=gen) * 2).to(torch.bfloat16)
    # Some columns far above the others, as in real models.
    x[:, :: max(8, cols // 5)] *= 40
    b = torch.randn(rows, device="cuda", generator=gen) if bias else None
    given = None
    if norm:
        weight = torch.rand(cols, device="cuda", generator=gen) + 0.5
        given = (x.float() * 1.001, weight, 1e-5)
    width = rows // 2 if output == "swiglu" else rows
    dtype = torch.bfloat16 if output in ("bf16", "swiglu") else torch.float32
    whole = torch.full((inputs * width + 2 * GUARD,), float("nan"), device="cuda", dtype=dtype)
    out = whole[GUARD:-GUARD].view(inputs, width)
    before = None
    if output == "residual":
        before = torch.randn((inputs, rows), device="cuda", generator=gen)
        out.copy_(before)
    want = expect(w, x, output, before, b, given)

    def run():
        context.product(matrix, out, output, x=None if norm else x, norm=given, bias=b, overlap=1)

    if graph:
        replay = captured(run)
        if output == "residual":
            out.copy_(before)
        else:
            out.fill_(float("nan"))
        replay()
    else:
        run()
    torch.cuda.synchronize()
    got = out.double()
    error = float((got - want).norm() / want.norm())
    # f32 sums; one more for outputs in bf16, for activations rounded after the norm or to f16, for
    # weights rounded to bf16 (many rows), for sums rounded before SwiGLU, which multiplies two.
    roundings = (output in ("bf16", "swiglu")) + bool(norm) + (form == "f16")
    roundings += inputs > 128 and form in ("fp8", "int8", "int4")
    roundings += output == "swiglu" and (inputs > 4 or bool(norm))
    bound = BOUND_BF16 * max(1, roundings) ** 0.5 * 1.6 if roundings else BOUND_F32
    guard_ok = bool(torch.isnan(whole[:GUARD]).all() and torch.isnan(whole[-GUARD:]).all())
    first = out.clone()
    if output == "residual":
        out.copy_(before)
    run()
    torch.cuda.synchronize()
    same = torch.equal(first, out)
    ok = error <= bound and guard_ok and same
    note = f"error {error:.2e} (bound {bound:.1e}) guard {guard_ok} same bits {same}"
    if not ok:
        off = (got - want).abs()
        off[torch.isnan(off)] = float("inf")
        worst = int(off.argmax())
        n, r = divmod(worst, width)
        bad = (off > 0.05 * want.abs().mean()).nonzero()
        note += f"; worst at input {n} row {r}: {got[n, r]:.6g}, not {want[n, r]:.6g}; "
        note += f"{len(bad)} bad, first {bad[:6].tolist()}"
        note += f"; got {got[0, :6].tolist()} want {want[0, :6].tolist()}"
    return ok, note


@guarded
def refused():
    """Calls that are not served say so and launch nothing."""
    matrix = Matrix("bf16", 64, 64)
    x = torch.zeros((9, 64), device="cuda", dtype=torch.bfloat16)
    out = torch.zeros((9, 64), device="cuda")
    norm = (x.float(), torch.ones(64, device="cuda"), 1e-5)
    cases = (
        lambda: context.product(matrix, out, "f32", norm=norm),
        lambda: context.product(matrix, x, "bf16", x=x),
        lambda: context.product(matrix, out, "swiglu", x=x, bias=out),
        lambda: matrix.pack(x, "BF16", 65),
        lambda: matrix.pack(x, "BF16", 33, to_row=1, to_step=2),
        lambda: matrix.pack(x, "BF16", 9, head_dim=4, rope_dim=4),
    )
    said = []
    for case in cases:
        try:
            case()
            said.append("nothing")
        except RuntimeError as error:
            said.append(str(error))
    ok = all("matrix:" in words and "bound" in words for words in said)
    ok = ok and library.matrix_harness_bytes(3, 16, 40) == 0
    return ok, "" if ok else str(said)


def main():
    global context
    context = Context()
    small = "--small" in sys.argv
    only = sys.argv[sys.argv.index("--forms") + 1].split(",") if "--forms" in sys.argv else FORMS
    inputs_max = int(sys.argv[sys.argv.index("--inputs") + 1]) if "--inputs" in sys.argv else 4096
    for form in only:
        for dtype in DTYPES:
            for rows, cols in ((1, 32), (17, 288), (301, 1056)):
                pack(form, dtype, rows, cols)
        if NATIVE[form][0] != "Q":
            pack(form, NATIVE[form], 19, 40)
        parts(form)
    refused()
    shapes = ((1, 32), (15, 64), (17, 288), (301, 416), (768, 288), (96, 1536), (1000, 2048))
    big = ((6144, 4096), (4096, 14336))
    for form in only:
        for rows, cols in shapes if not small else shapes[:4]:
            for inputs in (1, 2, 3, 5, 8) if not small else (1, 3):
                product(form, rows, cols, inputs)
        for output in OUTPUTS:
            for inputs in (1, 3, 4, 7):
                product(form, 302, 416, inputs, output=output)
                if inputs <= NORM_ROWS_MAX and output != "residual":
                    product(form, 302, 416, inputs, output=output, norm=True)
                if output != "swiglu":
                    product(form, 302, 416, inputs, output=output, bias=True)
        if small:
            continue
        for rows, cols in big:
            for inputs in range(1, 10):
                if inputs <= inputs_max:
                    product(form, rows, cols, inputs, output="residual")
            product(form, rows, cols, 8, output="f32")
            product(form, rows, cols, 1, output="swiglu", norm=cols == 4096, graph=True)
        for inputs in (9, 16, 17, 64, 128, 300):
            if inputs > inputs_max:
                continue
            for output in OUTPUTS:
                product(form, 304, 416, inputs, output=output)
                if output != "swiglu":
                    product(form, 304, 416, inputs, output=output, bias=True)
            product(form, 2000, 4096, inputs, output="bf16", graph=True)
            product(form, 301, 288, inputs, output="f32")
    passed = sum(ok for _, ok in results)
    print(f"{passed} passed, {len(results) - passed} failed")
    sys.exit(passed != len(results))


main()
