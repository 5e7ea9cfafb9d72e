"""Row kernels against float64, sampling on the device against the scalar sampler of engine/src.

LEANEDGE_CUDA_LIBRARY names the library with test/rows_harness.cpp. Ends with `N passed, N failed`.
--small leaves the large shapes out, for compute-sanitizer; --only TEXT runs what has it in its name.
"""

import ctypes
import sys
import traceback

import numpy as np
import torch

from rows_harness import (
    BF16, F16, F32, KV_TARGET, SAMPLE_OUT, SAMPLE_ROW, TORCH, F, GatherRows, I, ModelConfig, P,
    ResidualAdd, RmsNorm, RopeAngles, RotateWrite, Sampling, SamplingParams, SwiGlu, at, bytes_of,
    generator, launch, library, poison, random,
)  # fmt: skip

ROUNDING = {F32: 2.0**-23, F16: 2.0**-11, BF16: 2.0**-8}  # of one value, a little above half a unit
numbers = np.random.default_rng(7)


def near(got, want, bound, what):
    """Elementwise |got - want| <= bound (a number or a tensor); the first offender is named."""
    got, want = got.double(), want.double()
    bad = ~((got - want).abs() <= bound)
    if bad.any():
        first = tuple(int(x) for x in bad.nonzero()[0])
        raise AssertionError(
            f"{what}: {int(bad.sum())} of {bad.numel()} off, first at {first}: got {got[first].item()}"
            f" want {want[first].item()}"
        )


# ---- norm, sums --------------------------------------------------------------------------------


def check_rmsnorm(rows, dim, y_type, add_type, gather):
    eps = 1e-5
    x = random(rows + 3, dim, scale=3)
    before = x.clone()
    add = None if add_type is None else random(rows + 3, dim, dtype=TORCH[add_type])
    weight = random(dim)
    index = torch.randint(0, rows + 3, (rows,), generator=generator, device="cuda", dtype=torch.int32)
    y = poison(rows, dim, dtype=TORCH[y_type])
    launch(
        "rmsnorm",
        RmsNorm(at(x), at(add), at(weight), at(index) if gather else None, at(y),
                add_type or 0, y_type, eps, rows, dim),
    )  # fmt: skip
    whole = before.double() if add is None else (before + add.float()).double()
    picked = whole[index.long()] if gather else whole[:rows]
    want = picked / torch.sqrt(picked.pow(2).mean(1, keepdim=True) + eps) * weight.double()
    near(y, want, want.abs() * (ROUNDING[y_type] + 2e-6) + 1e-7, "y")
    stays = add is None or gather
    near(x[:rows], before[:rows] if stays else whole[:rows].float(), 0, "x")
    near(x[rows:], before[rows:], 0, "rows beyond")


def check_sums(rows, dim, y_type):
    x, y = random(rows + 1, dim), random(rows + 1, dim, dtype=TORCH[y_type])
    before = x.clone()
    launch("residual_add", ResidualAdd(at(x), at(y), y_type, rows, dim))
    near(x[:rows], before[:rows] + y[:rows].float(), 0, "sum")
    near(x[rows:], before[rows:], 0, "rows beyond")
    index = torch.randint(0, rows + 1, (rows,), generator=generator, device="cuda", dtype=torch.int32)
    out = poison(rows, dim)
    launch("gather_rows", GatherRows(at(x), at(index), at(out), rows, dim))
    near(out, x[index.long()], 0, "gathered")


def check_swiglu(rows, ff_dim, run, kind, y_type):
    gate, up = (random(rows, ff_dim, scale=4, dtype=TORCH[kind]) for _ in range(2))
    both = torch.stack((gate.view(rows, -1, run), up.view(rows, -1, run)), 2).reshape(rows, -1)
    both = both.contiguous()
    y = poison(rows, ff_dim, dtype=TORCH[y_type])
    launch("swiglu", SwiGlu(at(both), at(y), kind, y_type, rows, ff_dim, run))
    want = torch.nn.functional.silu(gate.double()) * up.double()
    near(y, want, want.abs() * (ROUNDING[y_type] + 1e-6) + 1e-30, "y")


# ---- rotation ------------------------------------------------------------------------------------


def rope_config(head_dim, rope_dim, scaling):
    config = ModelConfig(head_dim=head_dim, rope_dim=rope_dim, rope_base=500000.0, rope_scale=1.0)
    config.yarn_attention_factor, config.yarn_beta_fast, config.yarn_beta_slow = 1.0, 32.0, 1.0
    if scaling == "linear":
        config.rope_scaling, config.rope_scale = 1, 4.0
    if scaling == "yarn":
        config.rope_scaling, config.rope_scale = 2, 4.0
        config.yarn_original_context, config.yarn_attention_factor = 32768.0, 1.1386
    return config


def check_rotate(rows, heads, kv_heads, head_dim, rope_dim, kind, scaling, bias, norm, layers=3):
    config = rope_config(head_dim, rope_dim, scaling)
    pairs = rope_dim // 2
    factors = numbers.uniform(1, 8, pairs).astype(np.float32) if scaling == "factors" else None
    frequency = np.zeros(pairs)
    magnitude = library.harness_rope_table(
        ctypes.byref(config),
        None if factors is None else factors.ctypes.data_as(P),
        frequency.ctypes.data_as(P),
    )
    if scaling in (None, "factors"):
        plain = 500000.0 ** (-2.0 * np.arange(pairs) / rope_dim)
        assert np.allclose(frequency, plain if factors is None else plain / factors, rtol=1e-12)
    positions = numbers.integers(0, 131072, rows).astype(np.int32)
    positions[0] = 0
    padding = numbers.random(rows) < 0.2 if rows > 2 else np.zeros(rows, bool)
    positions[padding] = -1
    device_positions = torch.from_numpy(positions).cuda()
    device_frequency = torch.from_numpy(frequency).cuda()
    angles = poison(rows, pairs, 2)
    launch(
        "rope_angles",
        RopeAngles(at(device_frequency), at(device_positions), at(angles), magnitude, rows, pairs),
    )
    turn = torch.from_numpy(np.maximum(positions, 0)[:, None] * frequency[None, :]).cuda()
    cosine, sine = torch.cos(turn) * magnitude, torch.sin(turn) * magnitude
    near(angles[..., 0], cosine, 1e-7 * magnitude, "cosine")
    near(angles[..., 1], sine, 1e-7 * magnitude, "sine")

    heads_all = heads + 2 * kv_heads
    qkv = random(rows, heads_all, head_dim, scale=2, dtype=TORCH[kind])
    bad_row = rows - 1 if rows > 1 and not padding[rows - 1] else None
    if bad_row is not None:
        qkv[bad_row, heads_all - 1, head_dim - 1] = float("inf")
    biases = random(heads_all, head_dim) if bias else None
    q_norm, k_norm = (random(head_dim) if norm else None for _ in range(2))
    stride, layer = rows + 5, layers - 1
    zone = kv_heads * stride * head_dim
    k_cache, v_cache = (
        torch.full((layers, kv_heads, stride, head_dim), 777.0, device="cuda", dtype=torch.float16)
        for _ in range(2)
    )
    slots = numbers.permutation(stride)[:rows]
    targets = np.zeros(rows, dtype=KV_TARGET)
    targets["k"] = at(k_cache) + slots * head_dim * 2
    targets["v"] = at(v_cache) + slots * head_dim * 2
    targets["stride"] = stride
    targets["k"][padding] = 0
    device_targets = bytes_of(targets)
    q = poison(rows, heads, head_dim)
    q_bf16, q_f16 = q.to(torch.bfloat16), q.to(torch.float16)
    flags = torch.zeros(rows, dtype=torch.int32, device="cuda")
    launch(
        "rotate_write",
        RotateWrite(
            at(qkv), at(biases), at(q_norm), at(k_norm), at(angles), at(device_targets), at(q),
            at(q_bf16), at(q_f16), at(flags), zone, layer, kind, 1e-6, rows, heads, kv_heads,
            head_dim, rope_dim,
        ),
    )  # fmt: skip

    whole = qkv.double() + (biases.double() if bias else 0)

    def normed(x, weight):
        if weight is None:
            return x
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight.double()

    def turned(x):
        a, b, rest = x[..., :pairs], x[..., pairs:rope_dim], x[..., rope_dim:]
        c, s = cosine[:, None], sine[:, None]
        return torch.cat((a * c - b * s, a * s + b * c, rest), -1)

    q_want = turned(normed(whole[:, :heads], q_norm))
    k_want = turned(normed(whole[:, heads : heads + kv_heads], k_norm))
    v_want = whole[:, heads + kv_heads :]
    scale = q_want.abs().amax(-1, keepdim=True)
    near(q, q_want, 3e-6 * scale + 1e-6, "q f32")
    near(q_bf16, q_want, q_want.abs() * ROUNDING[BF16] + 3e-6 * scale + 1e-6, "q bf16")
    near(q_f16, q_want, q_want.abs() * ROUNDING[F16] + 3e-6 * scale + 1e-6, "q f16")
    k_all = torch.full_like(k_cache, 777.0).double()
    v_all = k_all.clone()
    real = np.flatnonzero(~padding)
    place = torch.from_numpy(slots[real]).cuda()
    k_all[layer, :, place] = k_want[torch.from_numpy(real).cuda()].transpose(0, 1)
    v_all[layer, :, place] = v_want[torch.from_numpy(real).cuda()].transpose(0, 1)
    want_flags = np.zeros(rows, np.int32)
    if bad_row is not None:
        want_flags[bad_row] = 1
        last = (layer, kv_heads - 1, int(slots[bad_row]), head_dim - 1)
        assert v_cache[last] == float("inf")
        v_all[last] = v_cache[last] = 0
    near(k_cache, k_all, k_all.abs() * ROUNDING[F16] + 1e-5, "k")
    near(v_cache, v_all, v_all.abs() * ROUNDING[F16] + 1e-6, "v")
    assert (flags.cpu().numpy() == want_flags).all(), f"flags {flags.tolist()}"


# ---- sampling --------------------------------------------------------------------------------------


def philox_uniform(seed, position):
    c = [position & 0xFFFFFFFF, 0, 0, 0]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k1, p0 & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return (((c[0] << 32) | c[1]) >> 11) * 2.0**-53


def draw_exact(logits, p, recent, noise, nudge):
    """The rules in float64 (scores as in f32), with every border moved by a share `nudge`."""
    scores = logits.copy()
    for token in set(recent.tolist()) if p["repetition_penalty"] != 1 else ():
        s, penalty = scores[token], p["repetition_penalty"]
        scores[token] = s / penalty if s > 0 else s * penalty
    weights = np.exp(((scores - scores.max()) / p["temperature"]).astype(np.float64))
    total = weights.sum()
    keep = weights >= min(1, float(p["min_p"]) * (1 + nudge))
    ids = np.flatnonzero(keep)
    if p["top_k"] > 0 or p["top_p"] < 1:
        ids = ids[np.lexsort((ids, -weights[ids]))]
        before = np.concatenate(([0], np.cumsum(weights[ids])[:-1]))
        kept = np.ones(len(ids), bool)
        if p["top_p"] < 1:
            kept &= before < float(p["top_p"]) * total * (1 + nudge)
        if p["top_k"] > 0:
            kept &= np.arange(len(ids)) < p["top_k"]
        ids = ids[kept][::-1]
    sums = np.cumsum(weights[ids])
    at_noise = np.clip(noise * sums[-1] + nudge * sums[-1], 0, sums[-1] * (1 - 1e-15))
    return ids[np.searchsorted(sums, at_noise, side="right")]


def random_params(rows, vocab):
    array = np.zeros(rows, dtype=SAMPLE_ROW)
    array["seed"] = numbers.integers(0, 2**63, rows, dtype=np.uint64) * 2 + 1
    array["temperature"] = numbers.choice([0, 1e-40, 0.2, 0.7, 1.0, 1.3, 2.0], rows)
    array["top_p"] = numbers.choice([1.0, 0.999, 0.95, 0.9, 0.5, 0.01], rows)
    array["min_p"] = numbers.choice([0, 0, 0.01, 0.1, 1.0], rows)
    array["repetition_penalty"] = numbers.choice([1.0, 1.0, 1.1, 1.5, 0.8], rows)
    array["top_k"] = numbers.choice([0, 0, 1, 2, 40, 1000], rows)
    array["position"] = numbers.integers(0, 1 << 20, rows)
    array["logits_row"] = numbers.permutation(rows)
    counts = numbers.choice([0, 1, 64, 4096], rows)
    array["recent_count"] = counts
    array["recent_begin"] = np.concatenate(([0], np.cumsum(counts)[:-1]))
    recent = numbers.integers(0, vocab, max(1, counts.sum())).astype(np.int32)
    return array, recent


def random_logits(rows, vocab, kind):
    if kind == "flat":
        return np.full((rows, vocab), 1.25, np.float32)
    scale = {"wide": 10.0, "usual": 2.5, "narrow": 0.3, "ties": 1.5, "far": 3e4}[kind]
    logits = (numbers.standard_normal((rows, vocab)) * scale).astype(np.float32)
    if kind == "ties":
        logits = np.round(logits * 4) / 4
    return logits - np.float32(3)


def sample_on_device(logits, stride, params, recent, vocab):
    rows = len(params)
    padded = np.zeros((rows, stride), np.float32)
    padded[:, :vocab] = logits
    device_logits = torch.from_numpy(padded).cuda()
    device_params, device_recent = bytes_of(params), torch.from_numpy(recent).cuda()
    out = torch.full((rows, 4), 12345, dtype=torch.int32, device="cuda")
    tokens = torch.full((rows,), 12345, dtype=torch.int32, device="cuda")
    call = Sampling(at(device_logits), at(device_params), at(device_recent), at(out), at(tokens),
                    stride, vocab, rows)  # fmt: skip
    launch("sampling", call)
    first = out.clone()
    launch("sampling", call)
    assert (first == out).all(), "the second launch gave other bits"
    return np.frombuffer(out.cpu().numpy().tobytes(), dtype=SAMPLE_OUT), tokens.cpu().numpy()


def check_sampling(rows, vocab, kind, stride_more=0):
    params, recent = random_params(rows, vocab)
    logits = random_logits(rows, vocab, kind)
    padding = numbers.random(rows) < 0.1 if rows > 3 else np.zeros(rows, bool)
    params["position"][padding] = -1
    broken = np.zeros(rows, bool)
    if rows > 3 and not padding[2]:
        broken[2] = True
        logits[params["logits_row"][2], numbers.integers(0, vocab)] = numbers.choice(
            [np.nan, np.inf, -np.inf]
        )
    got, tokens = sample_on_device(logits, vocab + stride_more, params, recent, vocab)
    differ = 0
    for r in range(rows):
        if padding[r]:
            assert got[r]["token"] == 12345 and tokens[r] == 12345, f"row {r}: padding was written"
            continue
        p = params[r]
        row = np.ascontiguousarray(logits[p["logits_row"]])
        ids = recent[p["recent_begin"] : p["recent_begin"] + p["recent_count"]]
        given = SamplingParams(p["temperature"], p["top_k"], p["top_p"], p["min_p"],
                               p["repetition_penalty"], 4096, int(p["seed"]))  # fmt: skip
        token, logprob = I(), F()
        status = library.harness_sample_ref(
            row.ctypes.data_as(P), vocab, ctypes.byref(given),
            np.ascontiguousarray(ids).ctypes.data_as(P), len(ids), int(p["position"]),
            ctypes.byref(token), ctypes.byref(logprob),
        )  # fmt: skip
        assert got[r]["status"] == status == (-10 if broken[r] else 0), (
            f"row {r}: status {got[r]['status']}, the scalar sampler's {status}"
        )
        if broken[r]:
            assert got[r]["token"] == -1 and tokens[r] == 12345
            continue
        assert tokens[r] == got[r]["token"], f"row {r}: {tokens[r]} beside {got[r]['token']}"
        if got[r]["token"] == token.value:
            error = abs(got[r]["logprob"] - logprob.value)
            assert error <= 2e-5 * max(1, abs(logprob.value)), f"row {r}: logprob off by {error}"
            continue
        differ += 1
        noise = philox_uniform(int(p["seed"]), int(p["position"]))
        allowed = {int(draw_exact(row, p, ids, noise, n)) for n in (0, 4e-6, -4e-6, 1e-6, -1e-6)}
        assert p["temperature"] > 0 and int(got[r]["token"]) in allowed, (
            f"row {r}: token {got[r]['token']}, the scalar sampler's {token.value}, float64 {allowed}:"
            f" {p}"
        )
    assert differ <= 1 + rows // 20, f"{differ} of {rows} tokens differ"
    return f"{differ} of {rows} at a border"


def check_distribution(temperature, top_k, top_p, min_p):
    vocab, rows, launches = 24, 256, 60
    logits = np.tile((numbers.standard_normal(vocab) * 1.5).astype(np.float32), (rows, 1))
    counts = np.zeros(vocab)
    for n in range(launches):
        params = np.zeros(rows, dtype=SAMPLE_ROW)
        params["seed"], params["temperature"], params["repetition_penalty"] = 99, temperature, 1
        params["top_k"], params["top_p"], params["min_p"] = top_k, top_p, min_p
        params["position"] = n * rows + np.arange(rows)
        params["logits_row"] = np.arange(rows)
        got, _ = sample_on_device(logits, vocab, params, np.zeros(1, np.int32), vocab)
        counts += np.bincount(got["token"], minlength=vocab)
    weights = np.exp(logits[0].astype(np.float64) / temperature)
    p = weights / weights.sum()
    order = np.lexsort((np.arange(vocab), -p))
    before = np.concatenate(([0], np.cumsum(p[order])[:-1]))
    keep = (before < top_p) & (p[order] >= min_p * p.max())
    if top_k:
        keep &= np.arange(vocab) < top_k
    expected = np.zeros(vocab)
    expected[order[keep]] = p[order[keep]] / p[order[keep]].sum() * counts.sum()
    assert counts[expected == 0].sum() == 0, "a filtered token was drawn"
    real = expected > 0
    chi = ((counts[real] - expected[real]) ** 2 / expected[real]).sum()
    freedom = real.sum() - 1
    bound = freedom + 5 * np.sqrt(2 * max(1, freedom)) + 5
    assert chi <= bound, f"chi-squared {chi:.1f} with {freedom} degrees of freedom"
    return f"chi-squared {chi:.1f} with {freedom} degrees of freedom"


def check_graph():
    """A captured step draws what its rows in device memory say at each replay."""
    vocab, rows = 5003, 4
    logits = torch.from_numpy(random_logits(rows, vocab, "usual")).cuda()
    params, recent = random_params(rows, vocab)
    params["temperature"], params["recent_count"] = 1.0, 0
    device_params, device_recent = bytes_of(params), torch.from_numpy(recent).cuda()
    out = torch.zeros((rows, 4), dtype=torch.int32, device="cuda")
    call = Sampling(at(logits), at(device_params), at(device_recent), at(out), None, vocab, vocab, rows)
    launch("sampling", call)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch("sampling", call)
    for step in range(20):
        params["position"] = step * 11 + np.arange(rows)
        device_params.copy_(bytes_of(params))
        graph.replay()
        torch.cuda.synchronize()
        replayed = out.clone()
        launch("sampling", call)
        assert (replayed == out).all()


def check_refused():
    x = random(4, 8)
    launch("rmsnorm", RmsNorm(at(x), None, at(x), None, at(x), 0, 0, 1e-5, 0, 8), expect=1)
    launch("rmsnorm", RmsNorm(at(x), None, at(x), None, at(x), 0, 0, 1e-5, 4, 6), expect=1)
    launch("rmsnorm", RmsNorm(at(x), None, at(x), None, at(x), 0, 2, 1e-5, 4, 8), expect=1)
    launch("swiglu", SwiGlu(at(x), at(x), 0, 0, 1, 8, 3), expect=1)
    launch("residual_add", ResidualAdd(at(x), at(x), 1, 4, 8), expect=1)
    launch("gather_rows", GatherRows(at(x), at(x), at(x), 5000, 8), expect=1)
    launch("rope_angles", RopeAngles(at(x), at(x), at(x), 1.0, 1, 129), expect=1)
    launch("sampling", Sampling(at(x), at(x), None, at(x), None, 8, (1 << 18) + 1, 1), expect=1)
    launch("sampling", Sampling(at(x), at(x), None, at(x), None, 8, 8, 257), expect=1)


def cases():
    for y_type in (F32, F16, BF16):
        for add_type in (None, F32, BF16):
            yield f"rmsnorm to {y_type} add {add_type}", lambda y=y_type, a=add_type: check_rmsnorm(
                5, 4096, y, a, False
            )
    for rows, dim in ((1, 4), (1, 896), (3, 2048), (7, 8192), (2, 8196), (4096, 64), (2, 65536)):
        for gather in (False, True):
            yield f"rmsnorm {rows} x {dim} gather {gather}", lambda r=rows, d=dim, g=gather: (
                check_rmsnorm(r, d, BF16, BF16, g)
            )
    for rows, dim in ((1, 4), (3, 900), (256, 4096), (4096, 128), (2, 65536)):
        for kind in (F32, BF16):
            yield f"sums {rows} x {dim} of {kind}", lambda r=rows, d=dim, k=kind: check_sums(r, d, k)
    for rows, ff, run in ((1, 4, 1), (3, 1536, 1), (5, 1536, 1536), (4, 4864, 8), (2, 14336, 16), (4096, 64, 4)):  # fmt: skip
        for kind in (F32, BF16):
            for y_type in (F32, BF16):
                yield f"swiglu {rows} x {ff} runs {run}, {kind} to {y_type}", (
                    lambda r=rows, f=ff, n=run, k=kind, y=y_type: check_swiglu(r, f, n, k, y)
                )
    for rows, heads, kv_heads, head_dim, rope_dim, kind, scaling, bias, norm in (
        (1, 32, 8, 128, 128, BF16, "factors", False, False),
        (17, 28, 4, 128, 128, BF16, None, True, False),
        (33, 16, 8, 128, 128, BF16, "yarn", False, True),
        (64, 8, 4, 64, 64, F32, None, False, False),
        (5, 9, 3, 64, 32, F32, "linear", True, True),
        (3, 3, 1, 6, 2, F32, None, True, True),
        (2, 2, 2, 2, 2, BF16, None, False, False),
        (4, 4, 2, 256, 64, BF16, "yarn", False, True),
        (7, 5, 5, 80, 80, F32, None, False, True),
        (4096, 4, 2, 64, 64, BF16, None, False, False),
    ):
        yield (
            f"rotate {rows} rows, {heads}/{kv_heads} heads of {head_dim} turning {rope_dim},"
            f" {scaling}, bias {bias}, norm {norm}"
        ), lambda a=(rows, heads, kv_heads, head_dim, rope_dim, kind, scaling, bias, norm): (
            check_rotate(*a)
        )
    for rows, vocab in ((1, 1), (4, 2), (9, 33), (9, 5000), (64, 1000), (64, 8192), (48, 32000), (24, 128256), (16, 151936), (8, 262144)):  # fmt: skip
        for kind in ("usual", "wide", "narrow", "ties", "flat", "far"):
            yield f"sampling {rows} x {vocab}, {kind}", lambda r=rows, v=vocab, k=kind: (
                check_sampling(r, v, k, stride_more=v % 3)
            )
    for rows in (17, 33, 65, 256):
        yield f"sampling {rows} x 4097", lambda r=rows: check_sampling(r, 4097, "usual")
    for values in ((1.0, 0, 1.0, 0), (0.7, 0, 0.9, 0), (1.5, 5, 1.0, 0), (1.0, 0, 1.0, 0.1), (2.0, 12, 0.8, 0.05)):  # fmt: skip
        yield f"distribution {values}", lambda v=values: check_distribution(*v)
    yield "a graph", check_graph
    yield "refused shapes", check_refused


SLOW = ("4096", "65536", "128256", "151936", "262144", "32000", "8192", "distribution", "graph")
passed = failed = 0
for name, run in cases():
    if "--small" in sys.argv and any(word in name for word in SLOW):
        continue
    if "--only" in sys.argv and sys.argv[sys.argv.index("--only") + 1] not in name:
        continue
    try:
        said = run()
        torch.cuda.synchronize()
        passed += 1
        print(f"ok   {name}" + (f": {said}" if isinstance(said, str) else ""))
    except Exception as error:  # every check runs, whatever the one before said
        failed += 1
        print(f"FAIL {name}: {error}")
        if not isinstance(error, AssertionError):
            traceback.print_exc()
print(f"{passed} passed, {failed} failed", flush=True)
sys.exit(failed > 0)
