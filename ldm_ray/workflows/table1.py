"""Trains and judges everything that Table 1 compares, for each kind of unseen test side and each seed.

Existing results are kept, so an interrupted campaign resumes when the same command is run again.
"""

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.cluster.batch.evaluate import block_runner
from ldm_ray.cluster.train.run import Run
from ldm_ray.config import FREE_TO_CHANGE, Config, dump_config, read_settings
from ldm_ray.console import counting, say, show_table, staged
from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.manifest import by_of
from ldm_ray.data.resplit import empty_side, resplit
from ldm_ray.errors import DataError
from ldm_ray.evaluation.report.folder import write_report
from ldm_ray.evaluation.report.table1 import Campaign, campaign_tables, write_campaign
from ldm_ray.evaluation.scores.record import Metrics, read_metrics
from ldm_ray.evaluation.suite import evaluate
from ldm_ray.layout import METRICS, SETTINGS
from ldm_ray.settings import ReproduceSettings
from ldm_ray.storage.store import Store
from ldm_ray.workflows.paper_model import paper_config
from ldm_ray.workflows.steps import trained


def run_table1(data: str, out: str, config: Config) -> Campaign:
    """Train, judge and tabulate every side and seed of `config.table1`.

    Args:
        data: Folder URL of a dataset written by `prepare`.
        out: Folder URL; bundles go to `models/`, resplit datasets to `data/`, reports beside them.
        config: All settings.

    Returns:
        The contents of `table1.json`.

    Raises:
        DataError: If `out` holds a campaign with other settings.
    """
    dataset, store = open_dataset(data, config.storage_options), Store(out, config.storage_options)
    if store.exists(SETTINGS):
        check_settings(read_settings(store.read_bytes(SETTINGS)), config, out)
    store.write_bytes(SETTINGS, dump_config(campaign_settings(config)).encode())
    runs = [
        _one(held, unseen, store, config.model_copy(update={"seed": seed}))
        for unseen, held in _held_out(dataset, store, config).items()
        for seed in config.table1.seeds
    ]
    result = write_campaign(store, runs, config)
    for table in campaign_tables(result):
        show_table(table.title, table.head, table.body)
    say(f"written: {store.path('table1.html')}")
    return result


def campaign_settings(config: Config) -> Config:
    """Return the settings that must not change in a campaign; sides, seeds, rivals and stages may be added later."""
    defaults = Config()
    free = {name: getattr(defaults, name) for name in FREE_TO_CHANGE if name not in ("evaluate", "ic50")}
    free |= {"reproduce": ReproduceSettings(paper=config.reproduce.paper), "seed": 0}
    # Never written, so what was read back has none.
    return config.model_copy(update=free | {"storage_options": {}})


def check_settings(found: Config, config: Config, out: str) -> None:
    """Refuse to continue a campaign that was begun with other settings.

    Raises:
        DataError: If settings differ that must not.
    """
    if campaign_settings(found) != campaign_settings(config):
        raise DataError(f"{out} holds a campaign with other settings; choose another --out")


def model_names(config: Config) -> list[str]:
    """Return the names of the trained models, in the order of the table."""
    return ["ldm", *(["paper"] if config.table1.paper else []), *config.table1.rivals]


def _held_out(dataset: PairedDataset, store: Store, config: Config) -> dict[str, PairedDataset]:
    """Return the dataset of each side; a side that would be empty is reported and skipped before any training."""
    sides: dict[str, PairedDataset] = {}
    for unseen in config.table1.unseen:
        if unseen == by_of(dataset.manifest["splits"]):
            sides[unseen] = dataset
        elif side := empty_side(dataset, unseen):
            say(f"unseen {unseen} is skipped: its {side} side would be empty")
        else:
            with counting(f"holding out by {unseen}") as progress:
                folder = Store(store.path(f"data/{unseen}"), config.storage_options)
                sides[unseen] = resplit(dataset, unseen, folder, progress)
    if not sides:
        raise DataError(f"{dataset.url} can hold out none of {', '.join(config.table1.unseen)}")
    return sides


def _one(dataset: PairedDataset, unseen: str, store: Store, config: Config) -> Metrics:
    """Train and judge one side and seed; return its metrics."""
    names = model_names(config)
    report = Store(store.path(f"{unseen}/seed{config.seed}"), config.storage_options)
    if report.exists(METRICS):
        judged = read_metrics(report)
        if {model["name"] for model in judged["models"]} == set(names):
            return judged
    say(f"unseen {unseen}, seed {config.seed}")
    folder = Store(store.path(f"models/{unseen}/seed{config.seed}"), config.storage_options)
    bundles = [_ldm(dataset, folder, config)]
    if config.table1.paper:
        bundles.append(_ldm(dataset, Store(folder.path("paper"), config.storage_options), paper_config(config)))
    for kind in config.table1.rivals:
        rival = Run(kind=kind, dataset=dataset, out=folder.path(kind), config=config)
        bundles.append(trained(rival, kind))
    with staged() as progress:
        evaluation = evaluate(dataset, bundles, config.evaluate, config.seed, progress, block_runner(config), names)
    write_report(report.url, evaluation, bundles, dataset, config)
    return evaluation.metrics


def _ldm(dataset: PairedDataset, folder: Store, config: Config) -> Bundle:
    autoencoder = trained(Run(kind="vae", dataset=dataset, out=folder.path("vae"), config=config), "autoencoder")
    model = Run(kind="ldm", dataset=dataset, out=folder.path("ldm"), config=config, vae=autoencoder)
    return trained(model, "latent diffusion")
