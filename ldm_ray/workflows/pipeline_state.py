"""The state of a pipeline's steps: `pipeline.json` in its folder."""

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
        name: Name of the step.
        state: State that the step last recorded; a kill leaves it `running`.
        seconds: Duration of all attempts that could record it.
        out: URL of its result.
        started: Start of its last attempt, seconds since 1970.
        error: Error of a failed step, in one line.
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
    """Fields that change with a step's state."""

    started: float
    seconds: float
    error: str


class PipelineState:
    """The states of the steps, written at every change; a killed process leaves `running` behind.

    Whether a step is done depends on its results, never on this file.

    Args:
        store: The pipeline's folder.
        steps: Names of the steps and URLs of their results, in order.
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
        """The steps in the file."""
        return {"steps": list(self._steps.values())}

    def skip(self, name: str) -> None:
        """Record that a step was done before."""
        self._set(name, "done")

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Record that a step runs, and how it ends; its seconds add up over attempts."""
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
    """Return the steps of a pipeline; an empty list if there is no valid file."""
    try:
        steps = store.read_json(PIPELINE)["steps"] if store.exists(PIPELINE) else []
    except (LdmRayError, KeyError):
        return []
    return cast("list[StepRecord]", list(steps))
