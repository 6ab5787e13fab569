"""News from a run's workers to the waiting driver."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

REPORT_EVERY_S = 0.5

Look = Callable[[Any], None]
"""Called with the latest status of one run, or of several by name."""


@ray.remote
class Board:
    """Holds the latest status of a run for the driver."""

    def __init__(self) -> None:
        self._status: dict[str, Any] = {}

    def put(self, status: dict[str, Any]) -> None:
        """Update some entries."""
        self._status |= status

    def get(self) -> dict[str, Any]:
        """Return all entries."""
        return self._status


def start_board() -> Any:
    """Start a board on the driver's own node, so that the loss of another node does not end it."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Board.options(num_cpus=0, scheduling_strategy=here).remote()  # type: ignore[attr-defined]


@contextmanager
def watching(board: Any, on_look: Look) -> Iterator[None]:
    """Read the board in a thread while the block runs, and once more at its end."""
    done = threading.Event()

    def look() -> None:
        try:
            on_look(ray.get(board.get.remote(), timeout=5))
        except ray.exceptions.RayError:
            return  # the board went with the cluster; the run itself will say why

    def poll() -> None:
        while not done.wait(REPORT_EVERY_S):
            look()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        look()
