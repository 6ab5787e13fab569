"""Ray Train's part of a run: start workers, restart them after a loss, and turn failures into one-line errors."""

import os
from collections.abc import Sequence

import ray
import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ldm_ray.cluster.placement import Placement
from ldm_ray.cluster.progress import watching
from ldm_ray.cluster.train.worker import WorkerArgs, run_worker
from ldm_ray.errors import LdmRayError, NonFiniteError
from ldm_ray.layout import RUN, SHARE
from ldm_ray.storage.store import Store
from ldm_ray.training.status import OnStatus

START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
PLACE_AGAIN = 1
"""Further attempts to place workers after one has failed; Ray Train would try forever."""


def fit_workers(
    args: WorkerArgs,
    store: Store,
    placement: Placement,
    callbacks: Sequence[ray.train.UserCallback],
    on_status: OnStatus,
) -> Checkpoint:
    """Run Ray Train's workers to the end and return their last checkpoint.

    Raises:
        NonFiniteError: If the loss becomes NaN or infinite.
        LdmRayError: If training fails more often than `ray.max_failures` allows.
    """
    fs, root = store.arrow()
    settings = args.config.ray
    os.environ[START_TIMEOUT] = f"{settings.replacement_timeout_s:g}"
    trainer = TorchTrainer(
        run_worker,
        train_loop_config={"args": args},
        scaling_config=ScalingConfig(
            num_workers=placement.num_workers,
            use_gpu=placement.use_gpu,
            resources_per_worker=placement.resources,
        ),
        run_config=RunConfig(
            name=RUN,
            storage_path=root,
            storage_filesystem=fs,
            failure_config=FailureConfig(  # type: ignore[call-arg]  # declared as Tune's
                max_failures=settings.max_failures, controller_failure_limit=PLACE_AGAIN
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=list(callbacks),  # type: ignore[arg-type]  # declared as Tune's
        ),
    )
    with watching(args.board, on_status):
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            reason = ray.get(args.board.get.remote()).get("error") or str(error).strip().splitlines()[-1]
            if START_TIMEOUT in reason:
                waited_s = (PLACE_AGAIN + 1) * settings.replacement_timeout_s
                reason = (
                    f"its workers could not be placed again in {waited_s:g} s (2 x ray.replacement_timeout_s), since"
                    " nodes were lost"
                )
            raise LdmRayError(f"training failed; --resume continues from the last checkpoint: {reason}") from error
    status = ray.get(args.board.get.remote())
    if "diverged" in status:
        for name in (RUN, SHARE):
            store.remove(name)
        raise NonFiniteError(status["diverged"])
    checkpoint: Checkpoint | None = result.checkpoint
    assert checkpoint is not None, "a run that has finished has a checkpoint"
    return checkpoint
