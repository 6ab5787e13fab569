"""Continuous batching: the samples of all requests go through the network together, and leave when they are done.

One thread owns the rows of a sampler. Between two passes it takes in what has arrived, so that a request waits for a
pass at most, whatever the steps and samples of the others; see `models/row_sampler.py` for why nobody's numbers change.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_ray.errors import BundleError
from ldm_ray.models.generate import ProfileGenerator, Samples, Sampling, row_keys
from ldm_ray.models.in_blocks import mean_and_var
from ldm_ray.models.row_sampler import Told
from ldm_ray.predictor import Predictor
from ldm_ray.queries import PreparedQuery
from ldm_ray.serving.errors import OverloadedError

FIRST_GUESS_ROWS_PER_S = 1000.0
SMOOTHING = 0.1


@dataclass(frozen=True)
class EngineLoad:
    """How busy an engine is.

    Attributes:
        rows: Rows of a pass.
        busy: Rows under way.
        waiting: Rows that wait for a place, in network passes of one row.
        passes: Passes made so far.
        rows_done: Samples finished so far.
        rows_per_s: Rough rate at which single-row passes are made.
    """

    rows: int
    busy: int
    waiting: int
    passes: int
    rows_done: int
    rows_per_s: float


class _Job:
    """One query under way."""

    def __init__(self, prepared: PreparedQuery, how: Sampling, length: int) -> None:
        self.prepared, self.how, self.length = prepared, how, length
        self.future: Future[Samples] = Future()
        self.started = self.done = 0
        self.told: Told
        self.base: Tensor
        self.keys: Tensor
        self.profiles: Tensor

    @property
    def cost(self) -> int:
        return self.how.n_samples * self.length


class SamplerEngine:
    """Samples queries of many requests at once.

    Args:
        predictor: With a diffusion model.
        max_waiting: Passes of single rows that may wait; more are refused.
    """

    def __init__(self, predictor: Predictor, max_waiting: int) -> None:
        generator = predictor.sampler
        if not isinstance(generator, ProfileGenerator) or predictor.encodings is None:
            raise BundleError(f"serving wants a bundle of kind 'ldm'; got {predictor.bundle.kind!r}")
        self._predictor, self._generator, self._encodings = predictor, generator, predictor.encodings
        self._max_waiting = max_waiting
        self._rows = generator.row_sampler()
        self._slots: list[tuple[_Job, int] | None] = [None] * generator.rows
        self._left = [0] * generator.rows
        self._arrived, self._queue = list[_Job](), deque[_Job]()
        self._waiting = self._passes = self._rows_done = 0
        self._rate = FIRST_GUESS_ROWS_PER_S
        self._wake, self._stopped = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def submit(self, prepared: Sequence[PreparedQuery], how: Sampling) -> list["Future[Samples]"]:
        """Ask for samples of n queries, all of them or none.

        Returns:
            For each query what `ProfileGenerator.sample` says of it alone, bit for bit.

        Raises:
            OverloadedError: If too much is waiting already.
        """
        _, length = self._generator.lines(how.sampler)
        jobs = [_Job(item, how, length) for item in prepared]
        cost = sum(job.cost for job in jobs)
        with self._wake:
            if self._stopped:
                raise OverloadedError("the model is being unloaded", 1.0)
            if self._waiting and self._waiting + cost > self._max_waiting:
                raise OverloadedError("too many samples are waiting", max(1.0, self._waiting / self._rate))
            self._waiting += cost
            self._arrived += jobs
            self._wake.notify()
        return [job.future for job in jobs]

    def load(self) -> EngineLoad:
        """Tell how busy the engine is."""
        busy = sum(slot is not None for slot in self._slots)
        return EngineLoad(len(self._slots), busy, self._waiting, self._passes, self._rows_done, self._rate)

    @property
    def stopped(self) -> bool:
        """Whether new queries are refused."""
        return self._stopped

    def stop(self) -> None:
        """Finish what has been taken in, and end."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                idle = not self._queue and not any(self._slots)
                while idle and not self._arrived and not self._stopped:
                    self._wake.wait()
                arrived, self._arrived = self._arrived, []
                if idle and not arrived:
                    return
            self._take_in(arrived)
            self._fill()
            if any(self._slots):
                self._step()

    def _take_in(self, arrived: list[_Job]) -> None:
        """Encode new queries together; those that cannot be are told so."""
        jobs = [job for job in arrived if job.future.set_running_or_notify_cancel()]
        self._forget([job for job in arrived if job not in jobs])
        if not jobs:
            return
        try:
            told = self._encodings.tell([job.prepared for job in jobs])
            base = torch.as_tensor(self._predictor.reader.base([job.prepared for job in jobs]))
        except Exception as error:  # a bad query must not end the thread that serves all others
            self._forget(jobs)
            for job in jobs:
                job.future.set_exception(error)
            return
        for number, job in enumerate(jobs):
            job.told, job.base = told.rows(torch.tensor([number])), base[number].to(self._generator.device)
            key = torch.tensor([job.prepared.key], device=self._generator.device)
            _, job.keys = row_keys(key, job.how.n_samples, job.how.seed)
            self._queue.append(job)

    def _fill(self) -> None:
        """Put waiting samples into free rows, first come, first served."""
        free = [number for number, slot in enumerate(self._slots) if slot is None]
        slots, told, keys, lines = list[int](), list[Told](), list[Tensor](), list[int]()
        while free and self._queue:
            job = self._queue[0]
            first, length = self._generator.lines(job.how.sampler)
            n = min(len(free), job.how.n_samples - job.started)
            for number in range(n):
                self._slots[free[number]] = (job, job.started + number)
                self._left[free[number]] = length
            slots += free[:n]
            free = free[n:]
            told.append(job.told.rows(torch.zeros(n, dtype=torch.int64)))
            keys.append(job.keys[job.started : job.started + n])
            lines += [first] * n
            job.started += n
            if job.started == job.how.n_samples:
                self._queue.popleft()
        if slots:
            self._rows.start(torch.tensor(slots), Told.cat(told), torch.cat(keys), torch.tensor(lines))

    def _step(self) -> None:
        began = time.perf_counter()
        self._rows.tick()
        self._passes += 1
        busy, ended = 0, list[int]()
        for number, slot in enumerate(self._slots):
            if slot is not None:
                busy += 1
                self._left[number] -= 1
                if self._left[number] == 0:
                    ended.append(number)
        rate = busy / (time.perf_counter() - began)
        with self._wake:
            self._waiting -= busy
            self._rate += SMOOTHING * (rate - self._rate)
        if ended:
            self._hand_out(ended)

    def _hand_out(self, ended: list[int]) -> None:
        """Decode rows that have ended, and answer the queries that are complete."""
        decoded = self._generator.decode(self._rows.latents())
        self._rows_done += len(ended)
        for number in ended:
            slot = self._slots[number]
            assert slot is not None
            job, sample = slot
            if job.done == 0:
                job.profiles = torch.empty(job.how.n_samples, decoded.shape[1], device=decoded.device)
            job.profiles[sample] = decoded[number]
            job.done += 1
            self._slots[number] = None
            if job.done == job.how.n_samples:
                job.future.set_result(self._samples(job))

    @torch.inference_mode()
    def _samples(self, job: _Job) -> Samples:
        profiles, how = job.profiles[None], job.how
        mean, variance = mean_and_var(profiles)
        key = torch.tensor([job.prepared.key], device=profiles.device)
        draws = self._generator.with_noise(profiles[:, : how.n_draws], key, how.seed)
        base, noise_var = job.base[None], self._generator.noise.total_var()[None]
        return Samples(mean + base, variance, draws + base[:, None], noise_var)

    def _forget(self, jobs: Sequence[_Job]) -> None:
        with self._wake:
            self._waiting -= sum(job.cost for job in jobs)
