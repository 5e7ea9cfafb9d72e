"""FlashInfer's decode attention over pages beside cuDNN and this repository's dense kernel, f16, one layer of an 8B Llama,
medians over CUDA-graph replays as in bench.py. Every way of calling it is timed: with tensor cores and without, pages of 16 and of
32 tokens, heads inside pages and outside. Before that, its results are compared with torch's on a small case.
Prints a line a case and keeps peers-flashinfer.json and .md in $OUT up to date.

    python3 bench_flashinfer.py [--seconds N] [--only-load]

--only-load: imports FlashInfer and loads its kernels, which needs no GPU."""

import argparse
import os
import time

import torch

from build_flashinfer import DIM, kernels

HEADS, KV_HEADS = 32, 8
SHAPES = ((1, 131072), (8, 32768), (32, 16384), (64, 8192))
# With tensor cores, tokens of a page, layout.
WAYS = (
    (True, 16, "NHD"),
    (True, 32, "NHD"),
    (True, 16, "HND"),
    (True, 32, "HND"),
    (False, 16, "NHD"),
    (False, 32, "HND"),
)
WORKSPACE_BYTES = 512 << 20
ROTATED_BYTES = 6 << 30
ERROR_MOST = 2e-3
start = time.time()


def load_kernels():
    """Loads both kernels, compiled ahead of time or compiled here; seconds."""
    begin = time.time()
    specs = kernels()
    ahead = [spec.is_aot for spec in specs]
    for spec in specs:
        spec.build_and_load()
    seconds = time.time() - begin
    print(f"kernels compiled ahead: {ahead}, loaded in {seconds:.1f} s", flush=True)
    return seconds


class Decode:
    """FlashInfer's wrapper, planned for `batch` sequences of `tokens` tokens over shuffled pages."""

    def __init__(self, way, batch, tokens, workspace):
        import flashinfer

        self.way = way
        tensor_cores, page, layout = way
        pages = -(-tokens // page)
        indptr = torch.arange(batch + 1, dtype=torch.int32, device="cuda") * pages
        self.indices = torch.randperm(batch * pages, device="cuda", dtype=torch.int64).to(
            torch.int32
        )
        last = torch.full((batch,), tokens - (pages - 1) * page, dtype=torch.int32, device="cuda")
        workspace.zero_()
        self.wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            workspace,
            layout,
            use_cuda_graph=True,
            use_tensor_cores=tensor_cores,
            paged_kv_indptr_buffer=torch.empty_like(indptr),
            paged_kv_indices_buffer=torch.empty_like(self.indices),
            paged_kv_last_page_len_buffer=torch.empty_like(last),
        )
        self.wrapper.plan(
            indptr,
            self.indices,
            last,
            HEADS,
            KV_HEADS,
            DIM,
            page,
            q_data_type=torch.float16,
            kv_data_type=torch.float16,
        )
        self.pages = batch * pages

    def views(self, flat):
        """A flat buffer of K or of V as its pages."""
        _, page, layout = self.way
        inner = (page, KV_HEADS, DIM) if layout == "NHD" else (KV_HEADS, page, DIM)
        return flat[: self.pages * page * KV_HEADS * DIM].view(self.pages, *inner)


def check(workspace):
    """The largest difference to torch over all ways, three sequences of 1,000 tokens."""
    torch.manual_seed(1)
    batch, tokens, worst = 3, 1000, 0.0
    for way in WAYS:
        decode = Decode(way, batch, tokens, workspace)
        _, page, layout = way
        size = decode.pages * page * KV_HEADS * DIM
        k, v = (
            decode.views(torch.randn(size, device="cuda", dtype=torch.float16)) for _ in range(2)
        )
        q = torch.randn((batch, HEADS, DIM), device="cuda", dtype=torch.float16)
        out = decode.wrapper.run(q, (k, v))
        rows = []
        for pages in (k, v):
            pages = pages if layout == "NHD" else pages.transpose(1, 2)
            each = pages[decode.indices.long()].reshape(batch, -1, KV_HEADS, DIM)[:, :tokens]
            rows.append(each.transpose(1, 2).float().repeat_interleave(HEADS // KV_HEADS, dim=1))
        expected = torch.nn.functional.scaled_dot_product_attention(q.float()[:, :, None], *rows)
        difference = (out.float() - expected[:, :, 0]).abs().max().item()
        if not difference < ERROR_MOST:  # NaN, too
            raise SystemExit(f"FlashInfer {way} differs from torch by {difference}")
        worst = max(worst, difference)
    return worst


def words(way):
    tensor_cores, page, layout = way
    return f"{'tensor' if tensor_cores else 'CUDA'} cores, pages of {page}, {layout}"


def measure(way, batch, tokens, pairs, workspace, tools):
    decode = Decode(way, batch, tokens, workspace)
    q = torch.randn((batch, HEADS, DIM), device="cuda", dtype=torch.float16)
    out = torch.empty_like(q)
    views = [(decode.views(k), decode.views(v)) for k, v in pairs]

    def run():
        for pair in views:
            decode.wrapper.run(q, pair, out=out)

    us = tools.median_ms(tools.captured(run)) * 1000 / len(views)
    if not torch.isfinite(out).all():
        raise RuntimeError("attention gave NaN")
    return us


def markdown(head, lines, error):
    import measure as tools

    text = [f"# FlashInfer's decode attention on {head['device']}", "", tools.head_line(head)]
    text += [
        f"Command: `{head['command']}`. FlashInfer {head['flashinfer']}, device copy {head['copy_gb_s']:.0f} GB/s; largest difference "
        f"to torch {error:.1e}.",
        "",
        "| batch x tokens | kernel | us a layer | GB/s | share of copy rate |",
        "| --- | --- | --- | --- | --- |",
    ]
    text += [
        f"| {line['batch']} x {line['tokens']:,} | {line['kernel']} | {line['us']:.1f} | {line['gbs']:.0f} | {100 * line['of_copy']:.1f} % |"
        for line in lines
    ]
    return "\n".join(text) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--only-load", action="store_true")
    arguments = parser.parse_args()
    import flashinfer

    print(
        f"FlashInfer {flashinfer.__version__} imported after {time.time() - start:.1f} s",
        flush=True,
    )
    load_kernels()
    if arguments.only_load:
        return
    import measure as tools
    from bench import Bench, cudnn_us

    workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device="cuda")
    error = check(workspace)
    print(f"largest difference to torch {error:.1e}", flush=True)
    bench = Bench(os.environ["LEANEDGE_MASKS"])
    head = tools.result_head(
        "bench_flashinfer.py", copy_gb_s=round(bench.rate, 1), flashinfer=flashinfer.__version__
    )
    lines = []

    def show(kernel, batch, tokens, us):
        size = batch * KV_HEADS * tokens * DIM * 4
        gbs = size / us / 1e3
        lines.append(
            {
                "batch": batch,
                "tokens": tokens,
                "kernel": kernel,
                "us": round(us, 2),
                "gbs": round(gbs, 1),
                "of_copy": round(gbs / bench.rate, 4),
            }
        )
        print(f"{batch:3} x {tokens:6} {kernel}: {us:.1f} us, {gbs:.0f} GB/s", flush=True)
        results = {"head": head, "largest_difference": error, "lines": lines}
        tools.write_results("peers-flashinfer", results, markdown(head, lines, error))

    for batch, tokens in SHAPES:
        if time.time() - start > arguments.seconds:
            print(f"left out {batch} x {tokens}", flush=True)
            continue
        bench.measure("llama-3.1-8b", False, 0, 0, batch, tokens)
        show("leanedge, dense", batch, tokens, bench.lines[-1]["us"])
        show("cuDNN", batch, tokens, cudnn_us(batch, tokens, HEADS, KV_HEADS))
        size = batch * KV_HEADS * tokens * DIM
        count = max(2, min(8, ROTATED_BYTES // (4 * size)))
        pairs = [
            [torch.randn(size, device="cuda", dtype=torch.float16) for _ in range(2)]
            for _ in range(count)
        ]
        for way in WAYS:
            try:
                us = measure(way, batch, tokens, pairs, workspace, tools)
                show(f"FlashInfer, {words(way)}", batch, tokens, us)
            except Exception as failure:  # the next way may still be measured
                print(
                    f"FlashInfer {words(way)} {batch} x {tokens} failed: {failure!r}"[:600],
                    flush=True,
                )
        del pairs
        torch.cuda.empty_cache()


main()
