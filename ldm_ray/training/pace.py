"""A worker's training speed, and the time it waits for its wells."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ldm_ray.training.rows import Rows
from ldm_ray.training.source import EpochPlan, WellSource

LATEST = 20
"""Number of calls of `latest` that its figures reach back."""


@dataclass(frozen=True)
class Sums:
    """A worker's totals so far.

    Attributes:
        wells: Wells trained on.
        waited_s: Seconds spent waiting for batches.
        worked_s: Seconds spent on batches.
    """

    wells: int = 0
    waited_s: float = 0.0
    worked_s: float = 0.0


@dataclass(frozen=True)
class PaceFigures:
    """A worker's pace over some time.

    Attributes:
        wells_per_s: Wells per second of this worker.
        data_wait: Share of the time spent waiting for wells, in [0, 1].
    """

    wells_per_s: float
    data_wait: float


class Pace:
    """Times a worker's batches; the time between epochs, such as validation, does not count.

    On a GPU steps are queued, and copying a batch waits for them, so waiting may be overstated there.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._sums, self._epoch_began = clock, Sums(), Sums()
        self._looks = deque([Sums()], maxlen=LATEST)

    def timed(self, batches: Iterator[Rows]) -> Iterator[Rows]:
        """Yield the batches of an epoch and time them."""
        self._epoch_began = self._sums
        asked = self._clock()
        for rows in batches:
            came = self._clock()
            yield rows
            done, so_far = self._clock(), self._sums
            waited_s, worked_s = so_far.waited_s + came - asked, so_far.worked_s + done - came
            self._sums, asked = Sums(so_far.wells + len(rows), waited_s, worked_s), done

    def latest(self) -> PaceFigures | None:
        """Return the pace since `LATEST` calls ago; None before the first batch is done."""
        figures = self._since(self._looks[0])
        self._looks.append(self._sums)
        return figures

    def of_epoch(self) -> PaceFigures | None:
        """Return the pace of the current epoch; None before its first batch is done."""
        return self._since(self._epoch_began)

    def _since(self, before: Sums) -> PaceFigures | None:
        waited_s = self._sums.waited_s - before.waited_s
        seconds = waited_s + self._sums.worked_s - before.worked_s
        if seconds <= 0:
            return None
        return PaceFigures((self._sums.wells - before.wells) / seconds, waited_s / seconds)


@dataclass(frozen=True)
class PacedSource:
    """A source with timed training batches."""

    source: WellSource
    pace: Pace

    @property
    def plan(self) -> EpochPlan:
        """Steps of an epoch over `split = train`."""
        return self.source.plan

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.source.device

    def count(self, split: str) -> int:
        """Return how many wells of a split this worker has."""
        return self.source.count(split)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Rows]:
        """Yield this worker's part of each global batch of an epoch, from `first_step` on."""
        return self.pace.timed(self.source.batches(epoch, first_step))

    def sweep(self, split: str) -> Iterator[Rows]:
        """Yield each well of this worker once, in pieces, always in the same order."""
        return self.source.sweep(split)
