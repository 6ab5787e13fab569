"""Continuous batching: samples of all requests go through the network together, and leave when they are done.

One thread owns the rows of a sampler. Between two passes it admits new requests, so they need not wait for others to
finish; `models/row_sampler.py` explains why sharing passes does not change anyone's numbers.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_ray.errors import BundleError
from ldm_ray.models.generate import ProfileGenerator, Samples, Sampling, reach_of, row_keys
from ldm_ray.models.in_blocks import mean_and_var
from ldm_ray.models.row_sampler import DenoiserTerms
from ldm_ray.prediction.predictor import Predictor
from ldm_ray.prediction.queries import PreparedQuery
from ldm_ray.serving.errors import OverloadedError

log = logging.getLogger("ldm_ray.serve")

FIRST_GUESS_ROWS_PER_S = 1000.0
SMOOTHING = 0.1
MAX_HELD = 4


@dataclass(frozen=True)
class EngineLoad:
    """How busy an engine is.

    Attributes:
        rows: Rows per pass.
        busy: Rows in use.
        waiting: Single-row network passes still to be made.
        passes: Passes made so far.
        row_passes: Single-row passes made so far.
        rows_done: Samples finished so far.
        rows_per_s: Smoothed rate of single-row passes per second.
    """

    rows: int
    busy: int
    waiting: int
    passes: int
    row_passes: int
    rows_done: int
    rows_per_s: float


class _Job:
    """A request in progress: n conditions with `n_samples` rows each, numbered by condition."""

    def __init__(self, prepared: Sequence[PreparedQuery], how: Sampling, length: int) -> None:
        self.prepared, self.how, self.length = list(prepared), how, length
        self.future: Future[Samples] = Future()
        self.rows = len(self.prepared) * how.n_samples
        self.started, self.left = 0, len(self.prepared)
        self.missing = [how.n_samples] * len(self.prepared)
        self.profiles: dict[int, Tensor] = {}
        self.sizes: dict[int, Tensor] = {}
        self.encoded: DenoiserTerms
        self.base: Tensor
        self.keys: Tensor
        self.own_keys: Tensor
        self.samples: Samples

    @property
    def cost(self) -> int:
        return self.rows * self.length

    def take(self, encoded: DenoiserTerms, base: Tensor, keys: Tensor, noise_var: Tensor) -> None:
        """Store the encoded conditions, and allocate the answer."""
        self.encoded, self.base, self.keys = encoded, base, keys
        _, self.own_keys = row_keys(self.keys, self.how.n_samples, self.how.seed)
        draws = base.new_zeros(len(base), self.how.n_draws, base.shape[1])
        none = base.new_zeros(len(base), 0, 0)
        zeros = torch.zeros_like(base)
        self.samples = Samples(zeros, zeros.clone(), draws, noise_var, base.new_zeros(len(base)), none)


class SamplerEngine:
    """Samples queries of many requests at once.

    Args:
        predictor: Predictor with a diffusion model.
        max_waiting: Single-row passes that may wait; more are refused.
    """

    def __init__(self, predictor: Predictor, max_waiting: int) -> None:
        generator = predictor.sampler
        if not isinstance(generator, ProfileGenerator) or predictor.encodings is None:
            raise BundleError(f"serving needs a bundle of kind 'ldm'; got {predictor.bundle.kind!r}")
        self._predictor, self._generator, self._encodings = predictor, generator, predictor.encodings
        self._max_waiting = max_waiting
        self._rows, self._noise_var = generator.row_sampler(), generator.noise.total_var()[None]
        self._slots: list[tuple[_Job, int] | None] = [None] * generator.rows
        self._left = [0] * generator.rows
        self._arrived, self._queue = list[_Job](), deque[_Job]()
        self._waiting = self._passes = self._row_passes = self._rows_done = self._held = 0
        self._rate = FIRST_GUESS_ROWS_PER_S
        self._wake, self._stopped, self._broken = threading.Condition(), False, False
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def submit(self, prepared: Sequence[PreparedQuery], how: Sampling) -> "Future[Samples]":
        """Ask for samples of n queries.

        Returns:
            What `ProfileGenerator.sample` returns for each query alone, bit for bit. May be cancelled at any time.

        Raises:
            OverloadedError: If too much is waiting.
        """
        job = _Job(prepared, how, self._generator.lines(how.sampler)[1])
        with self._wake:
            if self._stopped:
                raise OverloadedError("the model is being unloaded", 1.0)
            if self._waiting and self._waiting + job.cost > self._max_waiting:
                raise OverloadedError("too many samples are waiting", max(1.0, self._waiting / self._rate))
            self._waiting += job.cost
            self._arrived.append(job)
            self._wake.notify()
        return job.future

    def load(self) -> EngineLoad:
        """Return how busy the engine is."""
        busy = sum(slot is not None for slot in self._slots)
        done = (self._passes, self._row_passes, self._rows_done)
        return EngineLoad(len(self._slots), busy, self._waiting, *done, self._rate)

    @property
    def stopped(self) -> bool:
        """Whether the engine refuses new queries."""
        return self._stopped

    def stop(self) -> None:
        """Finish the queries submitted so far, and end."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def broken(self) -> bool:
        """Whether the engine has failed."""
        return self._broken

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._admit()
                if any(self._slots):
                    self._step()
        except Exception as error:  # out of memory, for instance: no one may wait for answers that never come
            log.exception("the sampler has ended")
            self._give_up(error)

    def _wait_for_work(self) -> bool:
        """Wait for work; return False once the engine is stopped and has none left."""
        with self._wake:
            idle = not self._queue and not any(self._slots)
            while idle and not self._arrived and not self._stopped:
                self._wake.wait()
            return not idle or bool(self._arrived)

    def _give_up(self, error: Exception) -> None:
        """Refuse new requests, and fail those in progress."""
        with self._wake:
            self._stopped = self._broken = True
            jobs = {*self._arrived, *self._queue, *(slot[0] for slot in self._slots if slot is not None)}
        for job in jobs:
            _answer(job.future, error)

    def _admit(self) -> None:
        """Fill free rows: at once if many are free, else a few passes later, with more at a time.

        Encoding and decoding cost a pass over a whole block, however few of its rows are used. Rows that start together
        also end together, and so share that cost.
        """
        free = sum(slot is None for slot in self._slots)
        if not free or not (self._queue or self._arrived):
            return
        if 2 * free < len(self._slots) and self._held < MAX_HELD:
            self._held += 1
            return
        self._held = 0
        if sum(job.rows - job.started for job in self._queue) < free:
            with self._wake:
                arrived, self._arrived = self._arrived, []
            self._take_in(arrived)
        self._fill()

    def _take_in(self, arrived: list[_Job]) -> None:
        """Encode new queries together; answer with the error if that fails."""
        jobs = [job for job in arrived if not job.future.cancelled()]
        self._forget([job for job in arrived if job not in jobs])
        if not jobs:
            return
        prepared = [item for job in jobs for item in job.prepared]
        try:
            encoded = self._encodings.encode(prepared)
            base, keys = self._predictor.base(prepared), self._predictor.keys(prepared)
        except Exception as error:  # a bad query must not end the thread that serves all others
            self._forget(jobs)
            for job in jobs:
                _answer(job.future, error)
            return
        first = 0
        for job in jobs:
            own = torch.arange(first, first + len(job.prepared))
            job.take(encoded.rows(own), base[own], keys[own], self._noise_var)
            first += len(job.prepared)
            self._queue.append(job)

    def _fill(self) -> None:
        """Put waiting samples into free rows, first come, first served."""
        free = [number for number, slot in enumerate(self._slots) if slot is None]
        slots, terms, keys, lines = list[int](), list[DenoiserTerms](), list[Tensor](), list[int]()
        while free and self._queue:
            job = self._queue[0]
            if job.future.cancelled():  # its rows in progress still finish
                self._queue.popleft()
                self._forget_rows((job.rows - job.started) * job.length)
                continue
            first, length = self._generator.lines(job.how.sampler)
            n = min(len(free), job.rows - job.started)
            for number in range(n):
                self._slots[free[number]] = (job, job.started + number)
                self._left[free[number]] = length
            slots += free[:n]
            free = free[n:]
            own = torch.arange(job.started, job.started + n)
            terms.append(job.encoded.rows(own // job.how.n_samples))
            keys.append(job.own_keys[own])
            lines += [first] * n
            job.started += n
            if job.started == job.rows:
                self._queue.popleft()
        if slots:
            self._rows.start(torch.tensor(slots), DenoiserTerms.cat(terms), torch.cat(keys), torch.tensor(lines))

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
        self._row_passes += busy
        rate = busy / (time.perf_counter() - began)
        with self._wake:
            self._waiting -= busy
            self._rate += SMOOTHING * (rate - self._rate)
        if ended:
            self._hand_out(ended)

    @torch.inference_mode()
    def _hand_out(self, ended: list[int]) -> None:
        """Decode finished rows, and answer complete requests."""
        latents = self._rows.latents()
        decoded, reach = self._generator.decode(latents), reach_of(latents[:, None])
        sizes = self._generator.sizes(latents)
        self._rows_done += len(ended)
        together: dict[tuple[_Job, int], list[int]] = {}
        for number in ended:
            slot = self._slots[number]
            assert slot is not None
            job, row = slot
            together.setdefault((job, row // job.how.n_samples), []).append(number)
        complete: dict[int, list[tuple[_Job, int]]] = {}
        for (job, condition), numbers in together.items():
            n_samples = job.how.n_samples
            if condition not in job.profiles:
                job.profiles[condition] = decoded.new_empty(n_samples, decoded.shape[1])
                job.sizes[condition] = sizes.new_empty(n_samples)
            samples = torch.tensor([self._slots[number][1] % n_samples for number in numbers])  # type: ignore[index]
            job.profiles[condition][samples], job.sizes[condition][samples] = decoded[numbers], sizes[numbers]
            job.samples.reach[condition] = torch.maximum(job.samples.reach[condition], reach[numbers].max())
            job.missing[condition] -= len(numbers)
            if not job.missing[condition]:
                complete.setdefault(n_samples, []).append((job, condition))
        for number in ended:
            self._slots[number] = None
        for group in complete.values():
            self._conclude(group)

    def _conclude(self, conditions: Sequence[tuple[_Job, int]]) -> None:
        """Compute the answers of complete conditions with equal numbers of samples."""
        profiles = torch.stack([job.profiles.pop(condition) for job, condition in conditions])
        means, variances = mean_and_var(profiles)
        for own, mean, variance, (job, condition) in zip(profiles, means, variances, conditions, strict=True):
            base, samples, how, sizes = job.base[condition], job.samples, job.how, job.sizes.pop(condition)
            samples.mean[condition], samples.latent_var[condition] = mean + base, variance
            if how.n_draws:
                key = job.keys[condition : condition + 1]
                some = own[None, : how.n_draws], sizes[None, : how.n_draws]
                drawn = self._generator.with_noise(*some, key, how.seed)
                samples.draws[condition] = drawn[0] + base
            job.left -= 1
            if not job.left:
                _answer(job.future, samples)

    def _forget(self, jobs: Sequence[_Job]) -> None:
        self._forget_rows(sum(job.cost for job in jobs))

    def _forget_rows(self, passes: int) -> None:
        with self._wake:
            self._waiting -= passes


def _answer(future: "Future[Samples]", answer: Samples | Exception) -> None:
    """Answer a future, unless it was cancelled."""
    if not future.done() and future.set_running_or_notify_cancel():
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
