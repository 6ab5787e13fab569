"""What a run of the whole chain says of itself: `pipeline.json` in its folder, a state for each step."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NotRequired, TypedDict, Unpack, cast

from ldm_ray.errors import LdmRayError
from ldm_ray.layout import PIPELINE
from ldm_ray.storage.store import Store

StepState = Literal["waiting", "running", "done", "failed", "interrupted"]


class StepRecord(TypedDict):
    """One step.

    Attributes:
        name: Of the step.
        state: As the step itself last said; a kill leaves it `running`.
        seconds: All attempts that could say how long they took.
        out: URL of what it makes.
        started: Of its last attempt, seconds since 1970.
        error: One line, of a failed step.
    """

    name: str
    state: StepState
    seconds: float
    out: str
    started: NotRequired[float]
    error: NotRequired[str]


class PipelineRecord(TypedDict):
    """What `pipeline.json` holds."""

    steps: list[StepRecord]


class StepChange(TypedDict, total=False):
    """What may change with a step's state."""

    started: float
    seconds: float
    error: str


class PipelineState:
    """The states of the steps, written whenever one changes; a process that is killed leaves `running` behind.

    What is done is told by what the steps have left, never by this file.

    Args:
        store: The run's folder.
        steps: Names of the steps and URLs of what they make, in order.
    """

    def __init__(self, store: Store, steps: Sequence[tuple[str, str]]) -> None:
        self._store = store
        seconds = {step["name"]: step.get("seconds", 0.0) for step in read_steps(store)}
        self._steps: dict[str, StepRecord] = {
            name: {"name": name, "state": "waiting", "seconds": seconds.get(name, 0.0), "out": out}
            for name, out in steps
        }

    @property
    def record(self) -> PipelineRecord:
        """What the file holds."""
        return {"steps": list(self._steps.values())}

    def skip(self, name: str) -> None:
        """Note that a step was done before."""
        self._set(name, "done")

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Note that a step runs, and how it ends; its seconds are those of all attempts that could say so."""
        self._set(name, "running", started=time.time())
        began, before = time.monotonic(), self._steps[name]["seconds"]

        def seconds() -> float:
            return round(before + time.monotonic() - began, 1)

        try:
            yield
        except Exception as error:
            self._set(name, "failed", seconds=seconds(), error=" ".join(str(error).split()))
            raise
        except BaseException:  # Ctrl-C, or `ray job stop`
            self._set(name, "interrupted", seconds=seconds())
            raise
        self._set(name, "done", seconds=seconds())

    def _set(self, name: str, state: StepState, **more: Unpack[StepChange]) -> None:
        step = self._steps[name]
        step.pop("error", None)
        self._steps[name] = {**step, "state": state, **more}
        self._store.write_json(PIPELINE, self.record)


def read_steps(store: Store) -> list[StepRecord]:
    """Return the steps of a run; none if it has not begun, or its file is not one."""
    try:
        steps = store.read_json(PIPELINE)["steps"] if store.exists(PIPELINE) else []
    except (LdmRayError, KeyError):
        return []
    return cast("list[StepRecord]", list(steps))
