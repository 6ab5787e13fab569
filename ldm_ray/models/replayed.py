"""Work that a GPU replays as a CUDA graph: launching hundreds of small kernels takes longer than running them."""

import threading
from collections.abc import Callable

import torch
from torch import Tensor

RUNS_BEFORE_CAPTURE = 3
_capturing = threading.Lock()  # torch captures on one stream, whatever the thread


class Replayed:
    """A function whose tensors stay in place; on a GPU it is captured once, and replayed from then on.

    Args:
        work: Reads and writes the same tensors in every call, and never waits for the device.
        device: Where it runs; elsewhere than on a GPU it is just called.
    """

    def __init__(self, work: Callable[[], Tensor], device: torch.device) -> None:
        self._work, self._on_gpu, self._runs = work, device.type == "cuda", 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._out: Tensor | None = None

    def __call__(self) -> Tensor:
        """Run; the next call may overwrite the result."""
        if not self._on_gpu:
            return self._work()
        if self._graph is None and self._runs < RUNS_BEFORE_CAPTURE:
            self._runs += 1
            return self._aside()
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with _capturing, torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._out = self._work()
        self._graph.replay()
        assert self._out is not None
        return self._out

    def _aside(self) -> Tensor:
        """Run on another stream, as torch asks for before a capture."""
        side, here = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            out = self._work()
        here.wait_stream(side)
        return out
