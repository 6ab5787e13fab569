"""What a training run says of itself while it runs, for progress bars and the watchdog of a search."""

from collections.abc import Callable
from typing import TypedDict


class TrainingStatus(TypedDict, total=False):
    """The latest news of a run; a key is there once it is known.

    Attributes:
        step: Global batches done, of `total`.
        total: Global batches of all epochs; early stopping may end sooner.
        epoch: Zero-based.
        loss: Of the latest step.
        valid_loss: Of the latest epoch.
        best_loss: Lowest so far.
        stage: What happens after the last step, in a few words; wells done of `stage_total`.
        stage_done: Wells.
        stage_total: Wells.
        error: What went wrong in a worker.
        diverged: That the loss became NaN or infinite, and when.
    """

    step: int
    total: int
    epoch: int
    loss: float
    valid_loss: float
    best_loss: float
    stage: str
    stage_done: int
    stage_total: int
    error: str
    diverged: str


OnStatus = Callable[[TrainingStatus], None]


def unheard(status: TrainingStatus) -> None:
    """Take a status for somebody who does not look."""
