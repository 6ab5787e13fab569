"""The paper's section 3: five-fold autoencoder, Table 1, Fig. 3 and, if its measurements are given, Table 2.

Every stage keeps its results, so the same command continues an interrupted campaign.
"""

import time
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from typing import TypedDict, TypeVar, cast

from ldm_ray.bundle.bundle import Bundle, load_bundle
from ldm_ray.config import Config, dump_config, read_settings
from ldm_ray.console import say
from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.manifest import by_of
from ldm_ray.errors import DataError
from ldm_ray.evaluation.ic50.record import Ic50Metrics
from ldm_ray.evaluation.report.folder import dataset_summary
from ldm_ray.evaluation.report.paper import Folds, PublishedPertdit, Reproduction, reproduction_page
from ldm_ray.evaluation.scores.record import read_metrics
from ldm_ray.layout import MANIFEST, PAGE, REPRODUCTION
from ldm_ray.storage.store import Store
from ldm_ray.workflows.ic50 import Ic50Tables, run_ic50
from ldm_ray.workflows.paper_model import paper_config
from ldm_ray.workflows.published_pertdit import train_published_pertdit
from ldm_ray.workflows.steps import cross_validated
from ldm_ray.workflows.table1 import campaign_settings, check_settings, model_names, run_table1

T = TypeVar("T")
SIDE = "compound"
ASKED = "ic50/asked.json"


class Begun(TypedDict):
    """Contents of `reproduce.json`: what a campaign was begun with, and the seconds that each stage has taken.

    `seed` is that of the folds and of PertDiT at its published size: the first of the first command.
    """

    dataset_sha256: str
    settings: str
    seed: int
    seconds: dict[str, float]


def run_reproduce(data: str, out: str, config: Config, tables: Ic50Tables | None = None) -> Reproduction:
    """Train and judge everything of the paper's section 3, and write the page.

    Args:
        data: Folder URL of a dataset written by `prepare`.
        out: Folder URL; stages go to `folds`, `table1` and `ic50`, the page to `report.html`.
        config: Settings of the default model and its rivals; `table1.seeds` and `table1.rivals` apply.
        tables: Measurements of Table 2; None leaves it out.

    Returns:
        What the page shows.

    Raises:
        DataError: If `out` holds something else, or a campaign with other settings or data, or the dataset does not
            hold compounds out.
        SettingsError: If `reproduce.paper` does not fit.
    """
    dataset, store = open_dataset(data, config.storage_options), Store(out, config.storage_options)
    if (by := by_of(dataset.manifest["splits"])) != SIDE:
        raise DataError(f"{data} must be held out by compound, as prepare writes it; got {by!r}")
    config = config.model_copy(update={"table1": config.table1.model_copy(update={"paper": True, "unseen": (SIDE,)})})
    paper_config(config)  # before anything is trained or written
    campaign = Campaign(store, dataset, config)
    first = config.model_copy(update={"seed": campaign.begun["seed"]})
    folds: Folds | None = None
    if config.reproduce.folds:
        folds = campaign.stage("folds", lambda: _folds(dataset, store, first))
    campaign.stage("table1", lambda: run_table1(data, store.path("table1"), config))
    pertdit: PublishedPertdit | None = None
    if hours := config.reproduce.pertdit_hours:
        own = Store(store.path("pertdit"), config.storage_options)
        pertdit = campaign.stage(
            "pertdit at its published size", lambda: train_published_pertdit(dataset, own, first, 3600 * hours)
        )
    runs = [read_metrics(store, f"table1/{SIDE}/seed{seed}") for seed in config.table1.seeds]
    bundles = _bundles(store, config)
    ic50: Ic50Metrics | None = None
    if tables:
        ic50 = campaign.stage("ic50", lambda: _table2(tables, bundles, store, config))
    result = Reproduction(
        dataset=data,
        what=dataset_summary(dataset),
        runs=runs,
        folds=folds,
        ic50=ic50,
        pertdit=pertdit,
        basal_mode=str(dataset.manifest["settings"].get("pairing", {}).get("basal_mode", "")),
        seconds=campaign.begun["seconds"],
        heatmaps=store.read_bytes(f"table1/{SIDE}/seed{config.table1.seeds[0]}/correlation_heatmaps.png"),
        settings=f"{dump_config(config)}\n# the paper's model\n{dump_config(paper_config(config))}",
    )
    store.write_bytes(PAGE, reproduction_page(result).encode())
    return result


class Campaign:
    """A folder's stages: each is timed, and its result kept."""

    def __init__(self, store: Store, dataset: PairedDataset, config: Config) -> None:
        self.store = store
        self.begun: Begun = {
            "dataset_sha256": sha256(dataset.store.read_bytes(MANIFEST)).hexdigest(),
            "settings": dump_config(campaign_settings(config)),
            "seed": config.table1.seeds[0],
            "seconds": {},
        }
        if store.exists(REPRODUCTION):
            found = store.read_json(REPRODUCTION)
            if found["dataset_sha256"] != self.begun["dataset_sha256"]:
                raise DataError(f"{store.url} holds a campaign on another dataset; choose another --out")
            check_settings(read_settings(found["settings"]), config, store.url)
            self.begun |= {"seconds": found["seconds"], "seed": found["seed"]}
        elif store.files():
            raise DataError(f"{store.url} is not empty and holds no campaign of `reproduce`; choose another --out")
        store.write_json(REPRODUCTION, self.begun)

    def stage(self, name: str, make: Callable[[], T]) -> T:
        """Run a stage, which resumes by itself, and add its time."""
        say(f"stage {name}")
        began = time.monotonic()
        try:
            return make()
        finally:
            self.begun["seconds"][name] = self.begun["seconds"].get(name, 0.0) + time.monotonic() - began
            self.store.write_json(REPRODUCTION, self.begun)


def _folds(dataset: PairedDataset, store: Store, config: Config) -> Folds:
    table = cross_validated(dataset, store.path("folds"), paper_config(config))
    failed = [f"fold {row['fold']}: check failed: {line}" for row in table["folds"] for line in row["failed"]]
    return Folds(len(table["folds"]), int(table["folds"][0]["n"]), table["mean"], table["sd"], failed)


def _table2(tables: Ic50Tables, bundles: list[Bundle], store: Store, config: Config) -> Ic50Metrics:
    """Judge the models, unless that was done with the same models and tables."""
    asked = {"models": model_names(config), **asdict(tables)}
    if store.exists(ASKED) and store.read_json(ASKED) == asked:
        return cast(Ic50Metrics, store.read_json("ic50/ic50.json"))
    store.remove(ASKED)
    metrics = run_ic50(bundles, tables, store.path("ic50"), config, model_names(config))[0]
    store.write_json(ASKED, asked)
    return metrics


def _bundles(store: Store, config: Config) -> list[Bundle]:
    """Load the models of the first seed."""
    folder = store.path(f"table1/models/{SIDE}/seed{config.table1.seeds[0]}")
    places = [f"{folder}/{'paper/ldm' if name == 'paper' else name}" for name in model_names(config)]
    return [load_bundle(place, storage_options=config.storage_options) for place in places]
