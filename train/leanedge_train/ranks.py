"""Several GPUs of one machine train one model: a process each, their gradients averaged.

Every process makes the same decisions from the same numbers: what depends on a clock is decided by
the first and told to the others (`agree`).
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed

# What a process waits for the others at most: one may compile for some seconds more.
WAIT_MAX = timedelta(seconds=180)


class Ranks:
    """The processes of a run, seen from one of them."""

    def __init__(self, rank: int = 0, count: int = 1, meeting: Path | None = None) -> None:
        """`meeting` is a file that the processes find each other by; the first one removes it
        before it starts the others."""
        if not 0 <= rank < count:
            raise ValueError(f"rank {rank} of {count}")
        self.rank, self.count = rank, count
        if torch.cuda.is_available():
            torch.cuda.set_device(rank)
        if count > 1:
            assert meeting is not None
            # All of them are on this machine, which may have no other interface.
            os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            distributed.init_process_group(
                "nccl" if torch.cuda.is_available() else "gloo",
                init_method=meeting.absolute().as_uri(),
                rank=rank,
                world_size=count,
                timeout=WAIT_MAX,
            )

    @property
    def first(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """This process's GPU, or the CPU."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", self.rank)

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replaces every gradient by its mean over the processes."""
        if self.count == 1:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.count
        at = 0
        for gradient in gradients:
            gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
            at += gradient.numel()

    def agree(self, value: int) -> int:
        """The first process's value."""
        if self.count == 1:
            return value
        shared = torch.tensor([value], dtype=torch.int64, device=self.device)
        distributed.broadcast(shared, 0)
        return int(shared)

    def close(self) -> None:
        """Leaves the others."""
        if self.count > 1:
            distributed.destroy_process_group()


def start_others(module: str, words: Sequence[str], count: int) -> list[subprocess.Popen]:
    """Starts ranks 1 .. count - 1 of `python3 -m module words...`."""
    return [
        subprocess.Popen([sys.executable, "-m", module, *words, "--rank", str(rank)])
        for rank in range(1, count)
    ]
