"""Progress as log lines, for output without a terminal: a job's log, a file, a pipe."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from rich.progress import TaskID

EVERY_S = 10.0


@dataclass
class _Task:
    what: str
    total: int | None
    done: int = 0
    more: dict[str, str] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    said: float = 0.0
    changed: bool = False

    def line(self, now: float) -> str:
        elapsed = now - self.began
        parts = [f"{self.what}: {self.done:,}" + ("" if self.total is None else f" of {self.total:,}")]
        parts += [text for text in self.more.values() if text]
        parts.append(f"{elapsed:.0f} s")
        if self.total is not None and 0 < self.done < self.total:
            parts.append(f"about {elapsed * (self.total - self.done) / self.done:.0f} s left")
        return ", ".join(parts)


class LineProgress:
    """Replaces `rich.progress.Progress` without a terminal: a line now and then, and one at the end of each task.

    Args:
        say: Prints a line.
        every_s: Seconds between lines of a task.
    """

    def __init__(self, say: Callable[[str], None], every_s: float = EVERY_S) -> None:
        self._say, self._every_s, self._tasks = say, every_s, list[_Task]()

    def __enter__(self) -> "LineProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            if task.changed:
                self._print(task, time.monotonic())

    def add_task(self, description: str, total: int | None = None, **more: str) -> TaskID:
        """Add a task; see `Progress.add_task`."""
        self._tasks.append(_Task(description, total, more=more, said=time.monotonic()))
        return TaskID(len(self._tasks) - 1)

    def update(self, task_id: TaskID, *, completed: int = 0, total: int | None = None, **more: str) -> None:
        """Update a task; see `Progress.update`."""
        task, now = self._tasks[task_id], time.monotonic()
        before = (task.done, task.total, dict(task.more))
        task.done, task.total = completed, total if total is not None else task.total
        task.more |= more
        news = before != (task.done, task.total, task.more)
        task.changed |= news
        if now - task.said >= self._every_s or (news and task.done == task.total):
            self._print(task, now)

    def _print(self, task: _Task, now: float) -> None:
        self._say(task.line(now))
        task.said, task.changed = now, False


class DetailLines:
    """Replaces `rich.status.Status` without a terminal: what a long step is at, now and then.

    Args:
        say: Prints a line.
        what: The step.
        every_s: Seconds between lines; nothing is said before the first have passed.
    """

    def __init__(self, say: Callable[[str], None], what: str, every_s: float = EVERY_S) -> None:
        self._say, self._what, self._every_s = say, what, every_s
        self._began = self._said = time.monotonic()

    def tell(self, detail: str) -> None:
        """Say a detail, unless something was said a moment ago."""
        now = time.monotonic()
        if now - self._said >= self._every_s:
            self._say(f"{self._what}: {detail}, {now - self._began:.0f} s")
            self._said = now
