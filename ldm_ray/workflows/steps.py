"""Single steps of a workflow, with their progress bars."""

from dataclasses import replace

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.bundle.presence import bundle_exists
from ldm_ray.cluster.batch.embed import embed
from ldm_ray.cluster.train.folds import FoldsStatus, FoldsTable, run_folds
from ldm_ray.cluster.train.run import Run, ensure_bundle, train
from ldm_ray.config import Config
from ldm_ray.console import counting, say, staged, training
from ldm_ray.data.dataset import PairedDataset


def encode_compounds(dataset: PairedDataset, config: Config) -> None:
    """Encode the compounds whose embeddings the dataset lacks."""
    with counting("encoding compounds") as progress:
        embed(dataset, config, on_progress=progress)


def trained(run: Run, title: str) -> Bundle:
    """Load the run's bundle, or encode the compounds that it needs and resume or start it; see `ensure_bundle`."""
    if not bundle_exists(run.out, run.config.storage_options):
        _encode_for(run)
    with training(title) as on_status:
        bundle = ensure_bundle(replace(run, on_status=on_status))
    return _told(bundle)


def train_now(run: Run, title: str) -> Bundle:
    """Encode the compounds that the run needs, and train it; see `train`."""
    _encode_for(run)
    with training(title) as on_status:
        bundle = train(replace(run, on_status=on_status))
    return _told(bundle)


def _told(bundle: Bundle) -> Bundle:
    """Say which checks the bundle failed."""
    for line in bundle.metadata.get("health", {}).get("failed", []):
        say(f"{bundle.kind}: check failed: {line}")
    return bundle


def cross_validated(dataset: PairedDataset, out: str, config: Config, *, overwrite: bool = False) -> FoldsTable:
    """Cross-validate the autoencoder, with a bar for each fold; see `run_folds`."""
    with staged() as bar:

        def hear(status: FoldsStatus) -> None:
            for name, own in sorted(status.items()):
                if "step" in own:
                    bar(name, own["step"], own["total"])

        return run_folds(dataset, out, config, overwrite=overwrite, on_progress=hear)


def _encode_for(run: Run) -> None:
    if run.kind != "vae":
        encode_compounds(run.dataset, run.config.encoded_for(run.kind))
