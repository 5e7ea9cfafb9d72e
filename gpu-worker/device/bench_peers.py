"""What others reach on the same card in the same run: transformers with StaticCache and torch.compile at an 8B Llama's
shape, random weights, bf16, each batch behind 2,048 tokens. cuDNN and FlashAttention stand in the results of the
attention families (bench.py, bench_prefill_attention.py). Prints a line a case and keeps peers.json and peers.md in
$OUT up to date. Compiling takes about a minute a batch.

    python3 bench_peers.py [--batches 1,16,64] [--behind N] [--steps N] [--seconds N]"""

import argparse
import statistics
import time

import torch

from engine_bench import DEVICE, SHAPE, Report, late
from random_model import transformers_model

NOTES = '`gb`: the most that torch has had allocated. transformers, StaticCache, sdpa, `torch.compile(mode="reduce-overhead")`.'


def model():
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if DEVICE else "cpu"):
        made = transformers_model(SHAPE, attn_implementation="sdpa").eval()
    torch.set_default_dtype(torch.float32)
    return made


def wait():
    if DEVICE:
        torch.cuda.synchronize()


@torch.no_grad()
def decode(llama, batch, behind, steps, report):
    from transformers import StaticCache

    device = llama.lm_head.weight.device
    torch._dynamo.reset()
    cache = StaticCache(config=llama.config, max_cache_len=behind + steps + 16)
    ids = torch.randint(0, SHAPE.vocab_size, (batch, behind), device=device)
    # A row at a time would be another cache: prompts go in slices of all rows, so that activations stay small.
    slice_ = max(1, min(behind, 16384 // batch))
    begin = time.perf_counter()
    for at in range(0, behind, slice_):
        out = llama(
            input_ids=ids[:, at : at + slice_],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    token = out.logits[:, -1:].argmax(-1)
    wait()
    prompt = time.perf_counter() - begin
    forward = torch.compile(llama, mode="reduce-overhead") if DEVICE else llama

    def step(token):
        logits = forward(input_ids=token, past_key_values=cache, use_cache=True).logits
        return logits[:, -1:].argmax(-1).clone()

    begin = time.perf_counter()
    for _ in range(4):  # compiles, records
        token = step(token)
    wait()
    compiling = time.perf_counter() - begin
    times = []
    for _ in range(steps):
        begin = time.perf_counter()
        token = step(token)
        wait()
        times.append(time.perf_counter() - begin)
    ms = 1e3 * statistics.median(times)
    report.show(
        case="transformers",
        batch=batch,
        behind=behind,
        ms=ms,
        tokens_s=1e3 * batch / ms,
        prompt_seconds=prompt,
        compile_seconds=compiling,
        gb=torch.cuda.max_memory_allocated() / 1e9 if DEVICE else 0.0,
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", default="1,16,64" if DEVICE else "1,2")
    parser.add_argument("--behind", type=int, default=2048 if DEVICE else 64)
    parser.add_argument("--steps", type=int, default=30 if DEVICE else 4)
    parser.add_argument(
        "--seconds", type=float, default=150.0, help="begin no case later than this"
    )
    arguments = parser.parse_args()
    report = Report("peers", "Peers at 8B Llama geometry, random weights", NOTES)
    llama = model()
    for batch in [int(b) for b in arguments.batches.split(",")]:
        if late(arguments.seconds):
            report.show(case="left out", what=f"batch {batch}")
            continue
        try:
            decode(llama, batch, arguments.behind, arguments.steps, report)
        except Exception as error:  # the next batch may still be measured
            report.failed(f"batch {batch}", error)
        if DEVICE:
            torch.cuda.empty_cache()


main()
