"""The whole CUDA engine: logits against transformers with the same weights, decoding against prompts, plans
against the reference engine, what the boundary promises. Prints a line a case and `N passed, N failed`.

    python3 check_engine.py [--only WORD] [--quick] [--part I/N]     every Nth case, from the Ith on

LEANEDGE_CUDA_LIBRARY names libleanedge_cuda.so, LEANEDGE_REFERENCE_LIBRARY the reference engine's."""

import argparse
import os
import shutil
import tempfile
import threading
import traceback

import numpy as np
import torch

from engine import BF16, F16, GENERATED, Q4_0, Q8_0, Config, Engine, EngineError, Sampling
from plan_block import plan_block
from random_model import RandomModel

CUDA = os.environ["LEANEDGE_CUDA_LIBRARY"]
REFERENCE = os.environ.get("LEANEDGE_REFERENCE_LIBRARY")

LLAMA = Config()
QWEN2 = Config(architecture=1, qkv_bias=1, tied=1, rope_base=1e6, heads=7, kv_heads=1, dim=448)
QWEN3 = Config(architecture=2, qk_norm=1, head_dim=128, rope_base=1e6, rms_eps=1e-6)
MODELS = {"llama": LLAMA, "qwen2": QWEN2, "qwen3": QWEN3}
# Of a model that the scalar reference can read some hundred tokens of.
SMALL = Config(layers=2, dim=256, ff_dim=512, heads=4, kv_heads=2, vocab_size=512)

results = []


def report(name, ok, note=""):
    results.append((name, bool(ok)))
    print(f"{'ok  ' if ok else 'FAIL'} {name} {note}", flush=True)


def distance(a, b):
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def random_ids(count, config, seed=7):
    return np.random.default_rng(seed).integers(0, config.vocab_size, count).astype(np.int32)


def oracle(model, ids, dtype):
    """transformers' logits of the last id."""
    with torch.inference_mode():
        out = model.transformers(dtype)(torch.tensor(ids, device="cuda").long()[None]).logits
    return out[0, -1].float().cpu().numpy()


def last_logits(engine, ids, plan=0):
    sequence = engine.create(plan)
    engine.append(sequence, ids)
    result = engine.run(sequence)
    logits = engine.logits(sequence)
    engine.free(sequence)
    return logits, result


def check_logits(name, config, dtype, tokens, **options):
    model = RandomModel(config, dtype)
    ids = random_ids(tokens, config)
    engine = Engine(CUDA, config, model.tensors, **options)
    ours, result = last_logits(engine, ids)
    exact = oracle(model, ids, torch.float32)
    error = distance(ours, exact)
    theirs = distance(oracle(model, ids, torch.bfloat16), exact)
    bound = 1.5 * theirs
    greedy = int(np.argmax(ours)) == result.token
    logprob = ours[result.token] - np.log(np.sum(np.exp(ours.astype(np.float64))))
    ok = error <= bound and greedy and abs(logprob - result.logprob) < 1e-3
    report(name, ok, f"error {error:.2e}, transformers in bf16 {theirs:.2e}, token {result.token}")
    return engine, model


def check_decode(name, config, dtype, tokens, generated, **options):
    """Greedy tokens one by one: the logits at the end against transformers over all of them."""
    model = RandomModel(config, dtype)
    ids = random_ids(tokens, config)
    engine = Engine(CUDA, config, model.tensors, **options)
    sequence = engine.create()
    engine.append(sequence, ids)
    for _ in range(generated):
        result = engine.run(sequence)
    ours = engine.logits(sequence)
    everything = engine.ids(sequence)
    exact = oracle(model, everything[:-1], torch.float32)
    error = distance(ours, exact)
    theirs = distance(oracle(model, everything[:-1], torch.bfloat16), exact)
    prompt, _ = last_logits(engine, np.array(everything[:-1], dtype=np.int32))
    apart = distance(ours, prompt)
    ok = error <= 1.5 * theirs and apart <= 3 * theirs and result.token == everything[-1]
    report(name, ok, f"error {error:.2e}, bf16 {theirs:.2e}, against prompt rows {apart:.2e}")


def random_channels(config, seed=3):
    rng = np.random.default_rng(seed)
    widths = rng.choice([0, 16, 32, 48, config.head_dim], (config.layers, config.kv_heads))
    widths[0, 0] = config.head_dim
    return [
        [sorted(rng.permutation(config.head_dim)[:w].tolist()) for w in row] for row in widths
    ]


def forced(engine, sequence, ids):
    """Logits behind a sequence and behind each of the generated tokens that are put in its mouth."""
    engine.run(sequence)
    logits = [engine.logits(sequence)]
    for token in ids:
        engine.truncate(sequence, engine.stats(sequence)["tokens"] - 1)
        engine.append(sequence, [token], GENERATED)
        engine.run(sequence)
        logits.append(engine.logits(sequence))
    return logits


# Distance of logits from the reference's where pages hold the same bytes: activations are bf16.
SAME_PAGES = 0.02
# And where each engine fills its own: a code of a page may fall to the other side.
OWN_PAGES = {"f16": 0.02, "int8": 0.03, "int4": 0.15, "int2": 0.3}


def check_plan(name, config, tokens, generated, **plan):
    """A prompt and generated tokens under a plan against the reference engine: with pages of one's own,
    and with the reference's, out of its snapshot."""
    model = RandomModel(config, F16)
    block = plan_block(config.layers, config.kv_heads, config.head_dim, **plan)
    ids, more = random_ids(tokens, config), random_ids(generated, config, 8)
    engine = Engine(REFERENCE, config, model.tensors, [block])
    sequence = engine.create(1)
    engine.append(sequence, ids)
    exact = forced(engine, sequence, more[:30])
    engine.truncate(sequence, engine.stats(sequence)["tokens"] - 1)
    saved = engine.snapshot(sequence)
    exact_behind = forced(engine, sequence, more[30:])
    pages = engine.stats(sequence)["pages"]
    engine = Engine(CUDA, config, model.tensors, [block])
    sequence = engine.create(1)
    engine.append(sequence, ids)
    own = max(distance(a, b) for a, b in zip(forced(engine, sequence, more[:30]), exact))
    sequence = engine.restore(1, saved)
    # The first needs the row that the snapshot ends with once more.
    ours = forced(engine, sequence, more[30:])
    same = max(distance(a, b) for a, b in zip(ours, exact_behind))
    bounds = SAME_PAGES, max(OWN_PAGES[plan["k"]], OWN_PAGES[plan["v"]])
    if plan.get("pages_per_step", 0) > 0:
        bounds = 0.15, 0.3  # of pages whose scores are close another may be chosen
    ok = same <= bounds[0] and own <= bounds[1] and engine.stats(sequence)["pages"] == pages
    report(name, ok, f"same pages {same:.2e}, own {own:.2e}, {pages} pages")


def play(engine, config, plan):
    """A schedule with several sequences, forks and cuts; logits along the way."""
    logits = []
    a, b, c = engine.create(plan), engine.create(plan), engine.create(0)
    engine.append(a, random_ids(333, config, 1))
    engine.append(b, random_ids(57, config, 2))
    engine.append(c, random_ids(180, config, 3))
    engine.sampling(b, Sampling(temperature=0.8, top_k=40, top_p=0.9, seed=5, repetition_penalty=1.1))
    for _ in range(40):
        done = engine.step([a, b, c], work=700)
        for sequence, result in zip((a, b, c), done):
            if result.token >= 0:
                logits.append(engine.logits(sequence))
    d = engine.fork(a, engine.stats(a)["tokens"] - 3)
    engine.truncate(b, engine.stats(b)["tokens"] - 2)
    for _ in range(20):
        for sequence, result in zip((a, b, c, d), engine.step([a, b, c, d])):
            if result.token >= 0:
                logits.append(engine.logits(sequence))
    tokens = [engine.ids(s) for s in (a, b, c, d)]
    for sequence in (a, b, c, d):
        engine.free(sequence)
    return logits, tokens


def check_twice(name, config, **plan):
    model = RandomModel(config, BF16)
    block = plan_block(config.layers, config.kv_heads, config.head_dim, **plan)
    rounds = []
    for _ in range(2):
        engine = Engine(CUDA, config, model.tensors, [block])
        play(engine, config, 1)  # graphs are captured here
        rounds.append(play(engine, config, 1))
    same = rounds[0][1] == rounds[1][1] and all(
        np.array_equal(x, y) for x, y in zip(rounds[0][0], rounds[1][0])
    )
    free = engine.stats()["cache_bytes"] == engine.stats()["cache_bytes_free"]
    report(name, same and free, f"{len(rounds[0][0])} rows of logits")


def check_fork(name, config, **plan):
    """A fork and a truncation go on as a sequence that never had more."""
    model = RandomModel(config, BF16)
    block = plan_block(config.layers, config.kv_heads, config.head_dim, **plan)
    engine = Engine(CUDA, config, model.tensors, [block])
    ids = random_ids(300, config)
    first = engine.create(1)
    engine.append(first, ids)
    for _ in range(12):
        engine.run(first)
    log = engine.ids(first)
    child = engine.fork(first, len(log) - 5)
    engine.truncate(first, len(log) - 5)
    tokens = [[engine.run(s).token for _ in range(5)] for s in (first, child)]
    logits = [engine.logits(first), engine.logits(child)]
    same = tokens[0] == tokens[1] == log[-5:]
    engine.drop_cache(first)
    replayed = engine.run(first).token
    engine.truncate(child, len(engine.ids(child)))
    kept = engine.run(child).token
    apart = distance(engine.logits(first), engine.logits(child))
    ok = same and np.array_equal(*logits) and apart < 0.05
    report(name, ok, f"replayed against kept {apart:.2e}, tokens {replayed} {kept}")


def check_rebuilt(name, config, dtype, generated, **plan):
    """A cache that is computed again from its log, generated rows many at a time, a few, and one by one: logits
    behind each against those of the cache that was kept. The plan's zones end a page among these rows."""
    model = RandomModel(config, dtype)
    block = plan_block(config.layers, config.kv_heads, config.head_dim, **plan)
    engine = Engine(CUDA, config, model.tensors, [block])
    kept = engine.create(1)
    engine.append(kept, random_ids(314, config))
    for _ in range(generated):
        engine.run(kept)
    log = engine.ids(kept)
    engine.run(kept)
    exact = engine.logits(kept)
    apart = {}
    for word, rows in (("many", 1 << 20), ("by three", 3), ("one by one", 1)):
        again = engine.fork(kept, len(log))
        engine.drop_cache(again)
        # The prompt, and then the generated rows so many in a step.
        while engine.stats(again)["computed"] < 314:
            engine.step([again], sample=0, work=314 * config.layers)
        while engine.stats(again)["tokens"] - engine.stats(again)["computed"] > rows:
            engine.step([again], sample=0, work=rows * config.layers)
        engine.run(again)
        apart[word] = distance(engine.logits(again), exact)
        engine.free(again)
    note = ", ".join(f"{word} {value:.2e}" for word, value in apart.items())
    report(name, max(apart.values()) < SAME_PAGES, note)


def check_snapshot(name, config, **plan):
    """Snapshots of both engines, read back by both."""
    model = RandomModel(config, F16)
    block = plan_block(config.layers, config.kv_heads, config.head_dim, **plan)
    ids = random_ids(290, config)
    saved, after = {}, {}
    for label, library in (("cuda", CUDA), ("reference", REFERENCE)):
        engine = Engine(library, config, model.tensors, [block])
        sequence = engine.create(1)
        engine.append(sequence, ids)
        engine.run(sequence)
        engine.truncate(sequence, len(ids))
        saved[label] = engine.snapshot(sequence)
        after[label, label] = engine.run(sequence).token, engine.logits(sequence)
        again = engine.restore(1, saved[label], 1000)
        same = np.array_equal(engine.snapshot(again), saved[label])
        report(f"{name}: {label} reads its own", same, f"{saved[label].size} bytes")
    for writer, reader, library in (
        ("cuda", "reference", REFERENCE),
        ("reference", "cuda", CUDA),
    ):
        engine = Engine(library, config, model.tensors, [block])
        sequence = engine.restore(1, saved[writer])
        same = np.array_equal(engine.snapshot(sequence), saved[writer])
        engine.append(sequence, [5, 6, 7])
        engine.run(sequence)
        logits = engine.logits(sequence)
        own = Engine(library, config, model.tensors, [block])
        other = own.restore(1, saved[reader])
        own.append(other, [5, 6, 7])
        own.run(other)
        apart = distance(logits, own.logits(other))
        report(f"{name}: {reader} reads {writer}'s", same and apart < 0.03, f"{apart:.2e}")


def check_batch(name, config, rows, **options):
    """Many sequences of different lengths decode as each of them alone."""
    model = RandomModel(config, BF16)
    engine = Engine(
        CUDA, config, model.tensors, sequences=rows + 1, memory=4 << 30, **options
    )
    sequences = []
    for i in range(rows):
        sequence = engine.create()
        engine.append(sequence, random_ids(20 + 13 * i % 400, config, i))
        sequences.append(sequence)
    while any(engine.stats(s)["computed"] < engine.stats(s)["tokens"] for s in sequences):
        engine.step(sequences, sample=0)
    tokens = [engine.step(sequences) for _ in range(6)]
    worst = 0.0
    for i in range(0, rows, max(1, rows // 4)):
        log = engine.ids(sequences[i])
        logits = engine.logits(sequences[i])
        alone, _ = last_logits(engine, np.array(log[:-1], dtype=np.int32))
        worst = max(worst, distance(logits, alone))
    ok = worst < 0.03 and all(r.status == 0 and r.token >= 0 for step in tokens for r in step)
    report(name, ok, f"worst {worst:.2e}")


def check_errors():
    model = RandomModel(SMALL, BF16)

    def fails(name, status, action):
        try:
            action()
            report(name, False, "no error")
        except EngineError as error:
            report(name, error.status == status, str(error))

    fails("memory too small", -4, lambda: Engine(CUDA, SMALL, model.tensors, memory=1 << 20))
    fails("a tensor is missing", -2, lambda: Engine(CUDA, SMALL, model.tensors[1:]))
    evil = Config(**{**SMALL.__dict__, "head_dim": 80})
    fails("a head size that is not served", -12, lambda: Engine(CUDA, evil, RandomModel(evil, BF16).tensors))
    engine = Engine(CUDA, SMALL, model.tensors)
    fails("an id beyond the vocabulary", -1, lambda: engine.append(engine.create(), [SMALL.vocab_size]))
    broken = RandomModel(SMALL, BF16)
    name = [t for t in broken.tensors if t.role == 18][0]
    name.data.reshape(-1)[0] = 0x7FC0  # a NaN
    engine = Engine(CUDA, SMALL, broken.tensors)
    sequence = engine.create()
    engine.append(sequence, random_ids(40, SMALL))
    fails("a weight that is not finite", -10, lambda: engine.run(sequence))
    report("its cache was dropped", engine.stats(sequence)["computed"] == 0)


def check_beside(name, config):
    """Engines that open and close on another thread while this one captures its graphs: same tokens as alone."""
    model = RandomModel(config, Q4_0)
    with tempfile.NamedTemporaryFile(suffix=".so") as copy:
        # A library holds one engine.
        shutil.copyfile(CUDA, copy.name)
        _, alone = play(Engine(CUDA, config, model.tensors), config, 0)
        opened, errors, over = [], [], threading.Event()

        def others():
            try:
                while not over.is_set() or not opened:
                    other = Engine(copy.name, config, model.tensors, memory=512 << 20)
                    other.append(other.create(), random_ids(40, config))
                    other.close()
                    opened.append(1)
            except EngineError as error:
                errors.append(str(error))

        thread = threading.Thread(target=others)
        thread.start()
        try:
            rounds = [play(Engine(CUDA, config, model.tensors), config, 0) for _ in range(4)]
        finally:
            over.set()
            thread.join()
    # Which of them may launch kernels whose blocks wait for each other is chance, and with it the bits of larger batches.
    same = sum(tokens == alone for _, tokens in rounds)
    report(name, not errors and same >= 1, f"{len(opened)} opened, {same} of 4 the same tokens {errors[:1]}")


STORAGES = ("f16", "int8", "int4", "int2")


def cases(quick):
    yield "errors", check_errors
    for label, config in MODELS.items():
        yield f"logits {label} bf16", lambda n, c=config: check_logits(n, c, BF16, 300)
        yield f"decode {label} bf16", lambda n, c=config: check_decode(n, c, BF16, 200, 60)
    for dtype, word in ((F16, "f16"), (Q8_0, "q8_0"), (Q4_0, "q4_0")):
        yield f"logits llama {word}", lambda n, d=dtype: check_logits(n, LLAMA, d, 300)
        yield f"decode llama {word}", lambda n, d=dtype: check_decode(n, LLAMA, d, 100, 30)
    other = Config(**{**LLAMA.__dict__, "rope_order": 1})
    yield "logits llama interleaved", lambda n: check_logits(n, other, BF16, 300)
    for tokens in (1, 2, 31, 129, 1500):
        yield f"logits llama of {tokens} tokens", lambda n, t=tokens: check_logits(n, LLAMA, BF16, t)
    yield "prompt in small blocks", lambda n: check_logits(n, LLAMA, BF16, 700, batch_rows=64)
    for rows in (3, 16, 70):
        yield f"batch of {rows}", lambda n, r=rows: check_batch(n, LLAMA, r)
    yield "engines that open beside it", lambda n: check_beside(n, LLAMA)
    zones = dict(sink=4, recent=32)
    yield "same schedule twice, dense", lambda n: check_twice(n, LLAMA, **zones)
    yield "same schedule twice, int4", lambda n: check_twice(n, LLAMA, k="int4", v="int4", **zones)
    yield "fork and truncate, f16", lambda n: check_fork(n, LLAMA, **zones)
    yield "fork and truncate, int8", lambda n: check_fork(n, LLAMA, k="int8", v="int8", sink=4, recent=64)
    seed = Config(dim=512, ff_dim=1536, heads=8, kv_heads=4, vocab_size=2048)
    cut = random_channels(seed)
    for dtype, word in ((BF16, "bf16"), (Q4_0, "q4_0")):
        for storage in ("f16", "int4"):
            for label, channels in (("whole", None), ("pruned", cut)):
                yield (
                    f"rebuilt {label} {storage}, {word}",
                    lambda n, d=dtype, s=storage, c=channels: check_rebuilt(
                        n, seed, d, 20, k=s, v=s, channels=c, sink=16, recent=112
                    ),
                )
    if not REFERENCE:
        return
    pairs = [(s, s) for s in STORAGES] if quick else [(k, v) for k in STORAGES for v in STORAGES]
    for k, v in pairs:
        yield (
            f"plan {k} {v}",
            lambda n, k=k, v=v: check_plan(n, SMALL, 260, 40, k=k, v=v, **zones),
        )
    kept = random_channels(SMALL)
    for k in STORAGES:
        yield (
            f"plan pruned {k}",
            lambda n, k=k: check_plan(n, SMALL, 260, 40, k=k, v=k, channels=kept, **zones),
        )
        yield (
            f"plan selecting {k}",
            lambda n, k=k: check_plan(
                n, SMALL, 400, 40, k=k, v=k, pages_per_step=4, pages_floor=5, **zones
            ),
        )
    yield "snapshot f16", lambda n: check_snapshot(n, SMALL, **zones)
    yield "snapshot int4", lambda n: check_snapshot(n, SMALL, k="int4", v="int4", channels=kept, **zones)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--part", default="0/1", help="0/3, 1/3 and 2/3 together are all cases")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    part, parts = (int(number) for number in arguments.part.split("/"))
    for name, run in list(cases(arguments.quick))[part::parts]:
        if arguments.only not in name:
            continue
        try:
            run() if run is check_errors else run(name)
        except Exception:
            report(name, False, traceback.format_exc(limit=4).replace("\n", " | "))
    failed = sum(1 for _, ok in results if not ok)
    print(f"{len(results) - failed} passed, {failed} failed")
    raise SystemExit(failed != 0)


main()
