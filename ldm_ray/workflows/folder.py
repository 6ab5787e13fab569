"""What the folder of a run says of it, and the folder itself as `ldm_ray.workflows.status` looks at it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NotRequired, TypedDict

from ldm_ray.storage.store import Store
from ldm_ray.workflows.pipeline_state import StepRecord

SILENT_S = 600.0
"""A run that says it runs is taken for interrupted after so many seconds of silence."""
SILENCE = "it says that it runs, but nothing was written for long"

FolderKind = Literal["training", "search", "bulk prediction", "pipeline", "dataset"]
FolderState = Literal["running", "finished", "failed", "interrupted"]
Files = Mapping[str, datetime | None]


@dataclass(frozen=True)
class FolderStatus:
    """What a run's folder says of it.

    Attributes:
        url: The folder.
        kind: Of run.
        what: What it makes, in a few words.
        state: `interrupted`: nobody works on it any more, and it has not ended.
        unit: What progress is counted in.
        done: So many are done.
        total: Of so many; None if that is not known.
        rows_per_s: Wells trained or conditions predicted; None if that is not known.
        seen: When it last wrote something, UTC, ISO 8601; empty if the store does not say.
        age_s: How long ago that was.
        figures: Losses and counts by name.
        said: What went wrong; empty if nothing did.
        go_on: How to go on; empty if there is no need.
        look: Where to look next.
        steps: Of a pipeline, as `pipeline.json` has them.
        within: Of a pipeline, the step that is running, failed or interrupted.
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
    """The last sign of life, as fields of `FolderStatus`; empty if the store does not say when files were written."""

    seen: str
    age_s: float


class Ending(TypedDict):
    """Whether and how a run has ended, as fields of `FolderStatus`."""

    state: FolderState
    said: NotRequired[str]
    go_on: NotRequired[str]


@dataclass(frozen=True)
class Folder:
    """A folder, its files, and the time it is looked at."""

    store: Store
    files: Files
    now: datetime

    @property
    def url(self) -> str:
        """Where it is."""
        return self.store.url

    def last(self, *prefixes: str) -> datetime | None:
        """Return when the newest file was written of those whose path begins so; of all without a prefix."""
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
        """Tell of a run that has not said how it ended: a kill leaves no time to.

        Args:
            go_on: How to go on if nobody works on it any more.
            after_s: Silence that tells so.
            among: Prefixes of the files that count.
        """
        if self.seen(*among).get("age_s", 0.0) <= after_s:
            return {"state": "running"}
        return {"state": "interrupted", "go_on": go_on, "said": SILENCE}
