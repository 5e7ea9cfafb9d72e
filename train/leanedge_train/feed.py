"""Batches made by processes beside the training process, in the order of the steps."""

import multiprocessing
from collections import deque
from multiprocessing.pool import AsyncResult
from types import TracebackType

import numpy as np

from .rows import Ids, Source, Weights, make_batch

AHEAD_MAX = 64  # batches under way or waiting: some seconds of training

# Set before the processes are forked, so that they share its memory.
_source: Source | None = None

Order = tuple[int, int, int, int, float]  # seed, step, rows, length, level


def _make(order: Order) -> tuple[Ids, Weights]:
    assert _source is not None
    seed, step, rows, length, level = order
    return make_batch(seed, step, rows, length, level, _source)


class Feed:
    """A queue of ordered batches; open it before the first use of a GPU, because it forks."""

    def __init__(self, source: Source, workers: int) -> None:
        global _source
        _source = source
        self._pool = multiprocessing.get_context("fork").Pool(workers) if workers > 0 else None
        self._queue: deque[AsyncResult | tuple[Ids, Weights]] = deque()

    @property
    def room(self) -> int:
        """Batches that may be ordered now."""
        return (AHEAD_MAX if self._pool is not None else 1) - len(self._queue)

    def order(self, order: Order) -> None:
        """Asks for a batch."""
        if self._pool is None:
            self._queue.append(_make(order))
        else:
            self._queue.append(self._pool.apply_async(_make, (order,)))

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """The batch that was ordered first."""
        batch = self._queue.popleft()
        return batch if isinstance(batch, tuple) else batch.get(timeout=120)

    def __enter__(self) -> "Feed":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()
