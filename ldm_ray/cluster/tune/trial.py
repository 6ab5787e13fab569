"""One trial of a search: a Ray Train run inside a Tune trial, which resumes where an earlier attempt stopped."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

import ray
import ray.tune
from ray.tune.integration.ray_train import TuneReportCallback

from ldm_ray.bundle.bundle import Bundle, load_bundle
from ldm_ray.bundle.presence import bundle_exists
from ldm_ray.cluster.placement import Placement
from ldm_ray.cluster.train.run import Run, ensure_bundle
from ldm_ray.config import Config
from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.errors import CheckError, DataError, NonFiniteError, SettingsError
from ldm_ray.evaluation.trial_scores import score_trial
from ldm_ray.storage.store import Store
from ldm_ray.training.status import OnStatus, TrainingStatus
from ldm_ray.tuning.space import searches_autoencoder, trial_config
from ldm_ray.tuning.trials import SearchObjective

FINAL, ERROR = "final", "error"
"""Keys of a trial's last result."""
CLAIM_S = 120.0


@dataclass(frozen=True)
class TrialSpec:
    """What all trials of a search share.

    Attributes:
        data: URL of the dataset.
        vae: URL of the autoencoder; empty if trials train their own.
        out: URL of the search.
        config: Its settings.
        objectives: What the search optimises.
        placement: Where a trial's workers go.
        claims: Keeps two trials from training the same autoencoder at once.
    """

    data: str
    vae: str
    out: str
    config: Config
    objectives: tuple[SearchObjective, ...]
    placement: Placement
    claims: Any


class Point(TypedDict):
    """The point of a trial: its number in the study, and the settings that vary."""

    number: int
    params: dict[str, float | int | str | bool]


def trial_folder(number: int) -> str:
    """Return the folder of a trial's model, below the search's folder."""
    return f"trials/{number:05d}"


def run_trial(point: Point, spec: TrialSpec) -> None:
    """Train and score one point; the entry point of a Tune trial.

    An error of the point itself (it diverged, it failed a check, its settings do not fit together) is its result and is
    not retried. Any other error ends the attempt, and Tune starts another.
    """
    with watched(spec.config.tune.silence_s) as beat:
        try:
            bundle, dataset = _trained(point, spec, beat)
            beat()
            result = score_trial(bundle, dataset)
        except (NonFiniteError, SettingsError, DataError, CheckError) as error:
            ray.tune.report({FINAL: True, ERROR: " ".join(str(error).split())})
            return
        ray.tune.report(result | {FINAL: True, "epoch": float(len(bundle.metadata["history"]))})


def _trained(point: Point, spec: TrialSpec, beat: Callable[[], None]) -> tuple[Bundle, PairedDataset]:
    config = trial_config(spec.config, point["params"])
    options = spec.config.storage_options
    dataset, store = open_dataset(spec.data, options), Store(spec.out, options)
    folder = trial_folder(point["number"])
    url = store.path(folder)
    if bundle_exists(url, options):
        return load_bundle(url, "ldm", options), dataset
    vae = (
        load_bundle(spec.vae, "vae", options)
        if spec.vae
        else _autoencoder(dataset, store, config, spec, point["number"], beat)
    )
    run = Run(
        kind="ldm",
        dataset=dataset,
        out=url,
        config=config,
        vae=vae,
        placement=spec.placement,
        callbacks=[EpochReport()],  # type: ignore[no-untyped-call]
        on_status=_beating(beat),
    )
    return ensure_bundle(run), dataset


class EpochReport(TuneReportCallback):
    """Passes the results of each epoch on to Tune, and nothing that is reported between epochs."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Report the epoch, counted from 1, and its validation measures."""
        row = metrics[0]
        if "valid_loss" not in row:
            return
        measures = {name.removeprefix("valid_"): value for name, value in row.items() if name.startswith("valid_")}
        super().after_report(run_context, [measures | {"epoch": row["epoch"] + 1}], None)


def _autoencoder(
    dataset: PairedDataset, store: Store, config: Config, spec: TrialSpec, number: int, beat: Callable[[], None]
) -> Bundle:
    """Load the autoencoder of a trial's settings; the first trial that needs it trains it."""
    assert searches_autoencoder(spec.config)
    text = config.vae.model_dump_json() + config.train_vae.model_dump_json() + config.target + str(config.seed)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder, options = f"vaes/{name}", spec.config.storage_options
    url = store.path(folder)
    while not bundle_exists(url, options):
        beat()  # a waiting trial is alive; the one that trains is watched itself
        if ray.get(spec.claims.claim.remote(name, number)):
            run = Run(
                kind="vae",
                dataset=dataset,
                out=url,
                config=_of_the_autoencoder(config),
                placement=spec.placement,
                on_status=_beating(beat),
            )
            with _holding(spec.claims, name, number):
                ensure_bundle(run)
        time.sleep(1.0)
    return load_bundle(url, "vae", options)


def _of_the_autoencoder(config: Config) -> Config:
    """Return settings that are equal for all trials that share an autoencoder."""
    plain = Config()
    return config.model_copy(
        update={name: getattr(plain, name) for name in ("denoiser", "schedule", "train_ldm", "predict")}
    )


@contextmanager
def _holding(claims: Any, name: str, number: int) -> Iterator[None]:
    """Renew a claim while the block runs; it lapses when this process dies."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(CLAIM_S / 6):
            claims.claim.remote(name, number)

    threading.Thread(target=renew, daemon=True).start()
    try:
        yield
    finally:
        done.set()


@ray.remote(num_cpus=0)
class Claims:
    """Which trial trains which autoencoder; a claim lapses if it is not renewed for two minutes."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, float]] = {}

    def claim(self, name: str, who: int) -> bool:
        """Take or renew a claim; False if another holds it."""
        holder, since = self._held.get(name, (who, 0.0))
        if holder != who and time.monotonic() - since < CLAIM_S:
            return False
        self._held[name] = (who, time.monotonic())
        return True


@contextmanager
def watched(silence_s: float) -> Iterator[Callable[[], None]]:
    """End this process if the yielded function is not called for a while; Tune then restarts the trial."""
    last, done = [time.monotonic()], threading.Event()

    def look() -> None:
        while not done.wait(min(5.0, silence_s / 4)):
            if time.monotonic() - last[0] > silence_s:
                os._exit(1)

    def beat() -> None:
        last[0] = time.monotonic()

    threading.Thread(target=look, daemon=True).start()
    try:
        yield beat
    finally:
        done.set()


def _beating(beat: Callable[[], None]) -> OnStatus:
    """Return a listener that calls `beat` only if the status has changed."""
    seen = TrainingStatus()

    def hear(status: TrainingStatus) -> None:
        nonlocal seen
        if status != seen:
            seen = status.copy()
            beat()

    return hear
