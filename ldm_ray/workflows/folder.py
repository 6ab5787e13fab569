"""The status of a run's folder, and the folder as `ldm_ray.workflows.status` reads it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NotRequired, TypedDict

from ldm_ray.storage.store import Store
from ldm_ray.workflows.pipeline_state import StepRecord

SILENT_S = 600.0
"""Seconds of silence after which a run that is marked running is taken for interrupted."""
SILENCE = "marked running, but nothing written recently"

FolderKind = Literal["training", "search", "bulk prediction", "pipeline", "reproduction", "dataset"]
FolderState = Literal["running", "finished", "failed", "interrupted"]
Files = Mapping[str, datetime | None]


@dataclass(frozen=True)
class FolderStatus:
    """What a run's folder says about the run.

    Attributes:
        url: The folder.
        kind: Kind of run.
        what: What the run makes, in a few words.
        state: State of the run; `interrupted` if it has not ended and no process works on it.
        unit: Unit of progress.
        done: Units done.
        total: Units in all; None if unknown.
        rows_per_s: Wells trained or conditions predicted per second; None if unknown.
        seen: Time of the last write, UTC, ISO 8601; empty if the store does not say.
        age_s: Seconds since then.
        figures: Losses and counts by name.
        said: What went wrong; empty if nothing did.
        go_on: How to resume; empty if there is no need.
        look: Where to look next.
        steps: Steps of a pipeline, as in `pipeline.json`.
        within: Status of a pipeline's step that is running, failed or interrupted.
    """

    url: str
    kind: FolderKind
    what: str
    state: FolderState
    unit: str
    done: int
    total: int | None = None
    rows_per_s: float | None = None
    seen: str = ""
    age_s: float | None = None
    figures: Mapping[str, float | int | str] = field(default_factory=dict)
    said: str = ""
    go_on: str = ""
    look: tuple[str, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    within: "FolderStatus | None" = None


class Seen(TypedDict, total=False):
    """The last activity, as fields of `FolderStatus`; empty if the store does not say when files were written."""

    seen: str
    age_s: float


class Ending(TypedDict):
    """Whether and how a run has ended, as fields of `FolderStatus`."""

    state: FolderState
    said: NotRequired[str]
    go_on: NotRequired[str]


@dataclass(frozen=True)
class Folder:
    """A folder, its files, and the current time."""

    store: Store
    files: Files
    now: datetime

    @property
    def url(self) -> str:
        """The folder's URL."""
        return self.store.url

    def last(self, *prefixes: str) -> datetime | None:
        """Return when the newest file was written, of those with one of the prefixes, or of all without a prefix."""
        times = [at for path, at in self.files.items() if at and path.startswith(prefixes or "")]
        return max(times, default=None)

    def seen(self, *prefixes: str) -> Seen:
        """Return when something was last written."""
        at = self.last(*prefixes)
        if at is None:
            return {}
        age_s = max(0.0, (self.now - at).total_seconds())  # the store's clock may be ahead of ours
        return {"seen": at.astimezone(UTC).isoformat(timespec="seconds"), "age_s": round(age_s, 1)}

    def unended(self, go_on: str, after_s: float = SILENT_S, among: tuple[str, ...] = ()) -> Ending:
        """Tell whether a run without a recorded end is running or interrupted; a kill leaves no time to record it.

        Args:
            go_on: How to resume if it is interrupted.
            after_s: Seconds of silence after which it is.
            among: Prefixes of the files that count as activity.
        """
        if self.seen(*among).get("age_s", 0.0) <= after_s:
            return {"state": "running"}
        return {"state": "interrupted", "go_on": go_on, "said": SILENCE}
