"""Progress of a training run, for progress bars and the watchdog of a search."""

from collections.abc import Callable
from typing import TypedDict


class TrainingStatus(TypedDict, total=False):
    """Latest progress of a run; keys appear once their value is known.

    Attributes:
        step: Global batches done, of `total`.
        total: Global batches of all epochs; early stopping may end training sooner.
        epoch: Current epoch, from 0.
        loss: Loss of the latest step.
        valid_loss: Validation loss of the latest epoch.
        best_loss: Lowest so far of the measure that decides which epoch is kept.
        stage: Current work after the last step, in a few words.
        stage_done: Wells done in that stage.
        stage_total: Wells of that stage.
        error: Error of a worker.
        diverged: Message that, and when, the loss became NaN or infinite.
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
    """Ignore a status."""
