"""Timing, memory, launches and the matmul peak of a device."""

import gc
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.on_gpu.inputs import precision
from ldm_ray.models import replayed

Work = Callable[[], object]


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Work, device: torch.device, rounds: int) -> float:
    """Return the seconds of one call, over several after one that does not count."""
    work()
    wait_for(device)
    began = time.perf_counter()
    for _ in range(rounds):
        work()
    wait_for(device)
    return (time.perf_counter() - began) / rounds


Row = dict[str, float | str]


def attempted(measure: Callable[[], Row], way: str) -> Row:
    """Measure; of a way other than eager, return what torch says if it cannot."""
    if way == "eager":
        return measure()
    try:
        return measure()
    except Exception as error:
        return {"failed": " ".join(str(error).split())[:300]}


@contextmanager
def graphs(*, on: bool) -> Iterator[None]:
    """Let the product use CUDA graphs, or not."""
    before = replayed.RUNS_BEFORE_CAPTURE
    replayed.RUNS_BEFORE_CAPTURE = before if on else sys.maxsize
    try:
        yield
    finally:
        replayed.RUNS_BEFORE_CAPTURE = before


def matmul_flops(kind: str, device: torch.device, size: int) -> float:
    """Floating-point operations per second of one large matrix product of random numbers."""
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    with precision("fp32" if kind == "bf16" else kind, device):
        return 2 * size**3 / timed(lambda: a @ b, device, 10)


def flops(work: Work) -> int:
    """Count the floating-point operations of the matrix products of a call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@dataclass
class Memory:
    """Peak of the device's memory, in MB, and how much of it was there before."""

    before_mb: float = 0.0
    peak_mb: float = 0.0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Memory]:
    """Watch torch's allocations on a GPU while the block runs."""
    memory = Memory()
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        memory.before_mb = torch.cuda.memory_allocated(device) / 1e6
    yield memory
    if device.type == "cuda":
        memory.peak_mb = torch.cuda.max_memory_allocated(device) / 1e6


@dataclass(frozen=True)
class Launches:
    """What a call asks of a GPU.

    Attributes:
        kernels: Kernels and copies.
        busy_ms: Time in which the GPU runs one.
        waits: Calls that make the host wait for the GPU.
        slowest: The kernels that take longest, with their milliseconds.
    """

    kernels: int
    busy_ms: float
    waits: int
    slowest: dict[str, float]


def launches(work: Work, device: torch.device) -> Launches | None:
    """Trace a call on a GPU, after one that does not count; None on a CPU."""
    if device.type != "cuda":
        return None
    work()
    wait_for(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        work()
        torch.cuda.set_sync_debug_mode("default")
    waits = sum("synchronizing" in str(item.message) for item in caught)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        work()
        wait_for(device)
    kernels = [
        event for event in trace.events() if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    by_name: dict[str, float] = {}
    for event in kernels:
        by_name[event.name[:60]] = by_name.get(event.name[:60], 0.0) + event.time_range.elapsed_us() / 1000
    slowest = sorted(by_name.items(), key=lambda item: -item[1])[:6]
    return Launches(len(kernels), round(sum(by_name.values()), 3), waits, {k: round(v, 3) for k, v in slowest})
