"""From a search to bundles: the best trial's own model, or models retrained with other seeds."""

from collections.abc import Sequence
from dataclasses import replace

from ldm_ray.bundle.bundle import Bundle, load_bundle, save_bundle
from ldm_ray.bundle.metadata import TrialOrigin
from ldm_ray.bundle.presence import bundle_exists
from ldm_ray.cluster.train.run import Run, ensure_bundle
from ldm_ray.cluster.tune.trial import trial_folder
from ldm_ray.config import Config
from ldm_ray.data.dataset import open_dataset
from ldm_ray.errors import BundleError, DataError
from ldm_ray.layout import METADATA, RUN
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.store import Store
from ldm_ray.training.status import OnStatus
from ldm_ray.tuning.analysis import best_trial
from ldm_ray.tuning.space import trial_config
from ldm_ray.tuning.state import load_search, read_record
from ldm_ray.tuning.trials import Trial


def export_trial(
    search: str,
    out: str,
    number: int | None,
    seeds: tuple[int, ...],
    *,
    overwrite: bool,
    storage_options: StorageOptions,
    on_status: OnStatus,
) -> list[str]:
    """Write a trial's bundle, or bundles retrained with its settings.

    Args:
        search: URL of the search.
        out: URL of the bundle; with seeds, bundles go to `out/seedN`, and their autoencoders, trained with the same
            seed, to `out/seedN-vae`.
        number: Number of the trial; None for the best.
        seeds: Seeds to retrain with; if empty, the trial's own model is copied. Existing bundles are not retrained.
        overwrite: Replace existing bundles.
        storage_options: fsspec's arguments by protocol.
        on_status: Called with the status of training.

    Returns:
        URLs of the bundles.

    Raises:
        DataError: If there is no such trial, or it is not complete.
        BundleError: If a bundle exists and `overwrite` is false.
    """
    loaded, store = load_search(search, storage_options), Store(search, storage_options)
    data, _, config = read_record(store)
    trial = best_trial(loaded) if number is None else _trial(loaded.trials, number)
    origin: TrialOrigin = {
        "search": store.url,
        "trial": trial.number,
        "params": dict(trial.params),
        "metrics": dict(trial.metrics),
    }
    if not seeds:
        if bundle_exists(out, storage_options) and not overwrite:
            raise BundleError(f"{out} already holds a bundle; --overwrite replaces it")
        _save(load_bundle(store.path(trial_folder(trial.number)), "ldm", storage_options), out, origin, storage_options)
        return [out]
    config = trial_config(config, trial.params).model_copy(update={"storage_options": storage_options})
    return [
        _trained(
            data,
            f"{out.rstrip('/')}/seed{seed}",
            config.model_copy(update={"seed": seed}),
            origin,
            overwrite=overwrite,
            on_status=on_status,
        )
        for seed in seeds
    ]


def _trial(trials: Sequence[Trial], number: int) -> Trial:
    for trial in trials:
        if trial.number == number and trial.state == "complete":
            return trial
    complete = ", ".join(str(trial.number) for trial in trials if trial.state == "complete")
    raise DataError(f"--trial must be a complete trial ({complete or 'there is none'}); got {number}")


def _trained(data: str, out: str, config: Config, origin: TrialOrigin, *, overwrite: bool, on_status: OnStatus) -> str:
    """Train autoencoder and diffusion model with the config's seed, resuming an interrupted run."""
    options, dataset = config.storage_options, open_dataset(data, config.storage_options)
    vae = f"{out}-vae"
    if overwrite:
        for url in (out, vae):
            for name in (METADATA, RUN):
                Store(url, options).remove(name)
    if bundle_exists(out, options):
        existing = load_bundle(out, "ldm", options).metadata.get("search")
        if existing != origin:
            raise BundleError(f"{out} holds a bundle of another trial; --overwrite replaces it")
        return out
    autoencoder = ensure_bundle(Run(kind="vae", dataset=dataset, out=vae, config=config, on_status=on_status))
    run = Run(kind="ldm", dataset=dataset, out=out, config=config, vae=autoencoder, on_status=on_status)
    _save(ensure_bundle(run), out, origin, options)
    return out


def _save(bundle: Bundle, out: str, origin: TrialOrigin, storage_options: StorageOptions) -> None:
    save_bundle(replace(bundle, metadata=bundle.metadata | {"search": origin}), out, storage_options)
