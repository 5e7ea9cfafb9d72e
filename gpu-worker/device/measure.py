"""What the benchmarks of a device share: medians of timed runs, CUDA graphs, the rates that a run is
compared with, and the head and files of its results."""

import json
import os
import statistics
import subprocess
import time

import torch


def median_ms(run, rounds=15):
    """Milliseconds of a run, the median of `rounds` after one that warms up."""
    run()
    torch.cuda.synchronize()
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def captured(run):
    """The replay of a CUDA graph of what `run` launches on the current stream."""
    torch.cuda.synchronize()  # what the run reads may still be on its way
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def copy_rate(size=2 << 30, rounds=15):
    """GB/s of a device copy, bytes read plus bytes written."""
    a = torch.empty(size, dtype=torch.uint8, device="cuda").random_(0, 255)
    b = torch.empty_like(a)
    return 2 * size / median_ms(lambda: b.copy_(a), rounds) / 1e6


def product_rate(rounds=15):
    """TFLOP/s of torch's bf16 matrix product, 8192 x 8192 x 8192."""
    a, b = (torch.randn((8192, 8192), device="cuda", dtype=torch.bfloat16) for _ in "ab")
    return 2 * 8192**3 / median_ms(lambda: a @ b, rounds) / 1e9


def result_head(command, **figures):
    """What results say of their run; `command` where LEANEDGE_COMMAND names none."""
    driver = "none"
    variants = os.environ.get("LEANEDGE_CUDA_VARIANTS", "").strip()
    if torch.cuda.is_available():
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        said = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        driver = said.split()[0]  # a line a GPU
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU",
        "driver": driver,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": os.environ.get("LEANEDGE_COMMIT", "unknown"),
        "command": os.environ.get("LEANEDGE_COMMAND", command)
        + (f" with {variants}" if variants else ""),
        **figures,
        "kernels": os.environ.get("LEANEDGE_KERNELS", "unknown"),
    }


def head_line(head):
    """The Markdown line that names date, commit and versions of a run."""
    return (
        f"Date {head['date']}, commit `{head['commit'][:12]}` (kernels `{head['kernels']}`), "
        f"driver {head['driver']}, CUDA {head['cuda']}, torch {head['torch']}.  "
    )


def write_results(name, results, markdown):
    """Writes NAME.json and NAME.md into $OUT, or into this folder."""
    out = os.environ.get("OUT", ".")
    with open(os.path.join(out, f"{name}.json"), "w") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    with open(os.path.join(out, f"{name}.md"), "w") as file:
        file.write(markdown)
