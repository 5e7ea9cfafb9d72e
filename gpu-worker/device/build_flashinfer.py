"""Compiles FlashInfer's decode attention of f16 and head_dim 128, with tensor cores and without, for the GPU that
FLASHINFER_CUDA_ARCH_LIST names, and puts both into the package in FOLDER, where it looks for what was compiled ahead of time.
Needs torch, which needs no GPU, and the compiler in CUDA_HOME.

    python3 build_flashinfer.py FOLDER"""

import os
import shutil
import sys

import torch

DIM = 128


def kernels():
    """What FlashInfer compiles: without tensor cores and with."""
    from flashinfer.jit.attention import gen_batch_decode_module, gen_batch_prefill_module

    h = torch.float16
    return (
        gen_batch_decode_module(h, h, h, torch.int32, DIM, DIM, 0, False, False),
        gen_batch_prefill_module("fa2", h, h, h, torch.int32, DIM, DIM, 0, False, False, False),
    )


def main():
    for spec in kernels():
        if not spec.is_aot:
            spec.build(verbose=False)
            folder = os.path.join(sys.argv[1], "flashinfer", "data", "aot", spec.name)
            os.makedirs(folder, exist_ok=True)
            shutil.copy(spec.jit_library_path, folder)
        print(spec.name)


if __name__ == "__main__":
    main()
