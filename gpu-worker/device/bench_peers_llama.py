"""llama.cpp beside this repository's engine on the same card in the same run: an 8B Llama's shape with random weights, Q4_0 and bf16,
a step behind 2,048 tokens and prompts of 8,192, K and V in f16 with flash attention. llama.cpp runs in peers_llama, which pack-peers.sh
has compiled against the libraries of node-llama-cpp's package. Prints a line a case and keeps peers-llama-cpp.json and .md in $OUT up to date.

    python3 bench_peers_llama.py --libraries FOLDER --models FOLDER [--shape 8b|tiny] [--seconds N]

FOLDER of models: random-SHAPE-q4_0.gguf and random-SHAPE-bf16.gguf (shape-model.ts); one that is not there is left out."""

import argparse
import json
import os
import re
import subprocess
import time
from functools import partial

from engine_bench import DEVICE, BenchEngine, Report, decode, fill, late

# Sequences side by side, and micro-batches of llama.cpp's prompts: the one that it takes by itself, and a larger one.
SEQUENCES = (1, 16)
UBATCHES = (512, 2048)
FORMS = ("q4_0", "bf16")
BEHIND, PROMPT, STEPS = (2048, 8192, 68) if DEVICE else (256, 512, 12)
NOTES = (
    "llama.cpp {release} as node-llama-cpp 3.22.1 has it, its kernels compiled for sm_90 ahead of time from the PTX in its library; "
    "`ms` medians of a step, of a prompt. leanedge: the engine alone, dense plan."
)


def llama(arguments, form, report):
    """Runs the cases of a model and shows the lines that the program prints."""
    model = os.path.join(arguments.models, f"random-{arguments.shape}-{form}.gguf")
    if not os.path.exists(model):
        report.show(case="left out", what=f"llama.cpp {form}: no {os.path.basename(model)}")
        return
    cases = [f"decode:{SEQUENCES[0]}:{BEHIND}:{STEPS}"]
    cases += [f"prompt:{PROMPT}:{ubatch}" for ubatch in UBATCHES]
    cases += [f"decode:{many}:{BEHIND}:{STEPS}" for many in SEQUENCES[1:]]
    log = os.path.join(os.environ.get("OUT", "."), f"peers-llama-{form}.log")
    # What lies beside the program comes before what the machine has: the CUDA runtime that the library was compiled with.
    path = [arguments.libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    with open(log, "w") as errors:
        program = subprocess.Popen(
            [os.path.join(arguments.libraries, "peers_llama"), arguments.libraries, model, *cases],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "LD_LIBRARY_PATH": ":".join(path)},
        )
        for line in program.stdout:
            said = json.loads(line)
            report.show(**{"case": said.pop("case"), "engine": "llama.cpp", "form": form, **said})
        if program.wait() != 0:
            with open(log) as lines:
                # Folders are those of the machine that built llama.cpp.
                words = [re.sub(r"^/\S*/", "", word) for word in lines.read().split()]
                end = " ".join(words[-40:])
            report.failed(f"llama.cpp {form}", f"ended with {program.returncode}: {end}")


def own(form, report):
    """The same with the engine of this repository."""

    def show(case, ms, tokens_made, **what):
        line = {"case": case, "engine": "leanedge", "form": form, **what}
        report.show(**line, ms=ms, tokens_s=1e3 * tokens_made / ms)

    engine = BenchEngine(form, [], sequences=max(SEQUENCES))
    try:
        sequences = []
        for count in SEQUENCES:
            more = [engine.create(0) for _ in range(count - len(sequences))]
            fill(engine, more, BEHIND)
            sequences += more
            ms = 1e3 * decode(engine, sequences, STEPS)
            show("decode", ms, count, sequences=count, behind=BEHIND, steps=STEPS - 5)
        for sequence in sequences:
            engine.free(sequence)
        times = []
        for _ in range(4):
            sequence = engine.create(0)
            times.append(1e3 * fill(engine, [sequence], PROMPT))
            engine.free(sequence)
        ms = sorted(times[1:])[1]
        show("prompt", ms, PROMPT, tokens=PROMPT)
    finally:
        engine.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--libraries", required=True)
    parser.add_argument("--models", required=True)
    parser.add_argument("--shape", default="8b")
    parser.add_argument("--seconds", type=float, default=100.0, help="begin no form later")
    arguments = parser.parse_args()
    with open(os.path.join(arguments.libraries, "release")) as file:
        release = file.read().strip()
    report = Report(
        "peers-llama-cpp", "llama.cpp at 8B Llama geometry", NOTES.format(release=release)
    )
    for form in FORMS:
        for name, measure in (
            ("llama.cpp", partial(llama, arguments)),
            ("leanedge", own),
        ):
            if late(arguments.seconds):
                report.show(case="left out", what=f"{name} {form}")
                continue
            begin = time.time()
            try:
                measure(form, report)
            except Exception as error:  # the next may still be measured
                report.failed(f"{name} {form}", error)
            print(f"{name} {form}: {time.time() - begin:.1f} s", flush=True)


main()
