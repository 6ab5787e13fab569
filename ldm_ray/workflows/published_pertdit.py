"""PertDiT at its published size, on as many wells as a time budget allows.

The pace is measured once, on a short run. The number of wells and epochs that follows from it is written down before
training, so that a resumed campaign trains the same model.
"""

from typing import cast

from ldm_ray.cluster.batch.evaluate import block_runner
from ldm_ray.cluster.train.run import Run
from ldm_ray.config import PERTDIT, Config
from ldm_ray.console import say, staged
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.subset import subset_dataset
from ldm_ray.errors import DataError
from ldm_ray.evaluation.report.paper import PertditPlan, PublishedPertdit
from ldm_ray.evaluation.scores.record import read_metrics
from ldm_ray.evaluation.suite import evaluate
from ldm_ray.layout import METRICS, PLANNED
from ldm_ray.settings import PertditSettings, RivalKind
from ldm_ray.storage.store import Store
from ldm_ray.tracking.record import read_record
from ldm_ray.workflows.steps import trained

TRIAL_STEPS = 4
SHARE_FOR_TRAINING = 0.8
"""Share of the budget that plans training; the rest is for validation and starting workers."""
VALID_SHARE = 0.1
FEWEST_VALID = 64
CALIBRATION = {"calibration_wells": 16, "n_samples": 2}
"""Sampling takes over a second a profile at this size."""


def train_published_pertdit(dataset: PairedDataset, store: Store, config: Config, budget_s: float) -> PublishedPertdit:
    """Measure the pace, train on the wells that fit the budget, and judge on a few test wells.

    Args:
        dataset: The whole dataset.
        store: Folder of this stage.
        config: A campaign's settings; the first PertDiT of `table1.rivals` is trained, with `seed`.
        budget_s: Seconds of training.
    """
    config = _published(config)
    if not store.exists(PLANNED):
        _plan(dataset, store, config, budget_s)
    plan = cast(PertditPlan, store.read_json(PLANNED))
    if plan["budget_s"] != budget_s:
        say(f"PertDiT at its published size was planned with {plan['budget_s'] / 3600:g} h; {store.url} holds it")
    sides = {"train": plan["n_train"], "valid": plan["n_valid"]}
    own = subset_dataset(dataset, sides, config.seed, _below(store, "data"))
    rated = config.train_pertdit.model_copy(update={"epochs": plan["epochs"]})
    config = config.model_copy(update={"train_pertdit": rated})
    bundle = trained(Run(kind=plan["kind"], dataset=own, out=store.path("model"), config=config), "published PertDiT")
    if store.exists(METRICS):
        return {"plan": plan, "metrics": read_metrics(store)}
    few = config.evaluate.model_copy(update={"max_profiles": config.reproduce.pertdit_wells, "n_samples": (2,)})
    with staged() as progress:
        metrics = evaluate(dataset, [bundle], few, config.seed, progress, block_runner(config)).metrics
    store.write_json(METRICS, metrics)
    return {"plan": plan, "metrics": metrics}


def _kind(config: Config) -> RivalKind:
    kinds = [name for name in config.table1.rivals if name != "prnet"]
    return kinds[0] if kinds else "pertdit-cross"


def _below(store: Store, name: str) -> Store:
    return Store(store.path(name), store.storage_options)


def _published(config: Config) -> Config:
    predict = config.predict.model_copy(update=CALIBRATION)
    return config.model_copy(update={"pertdit": PertditSettings(), "train_pertdit": PERTDIT, "predict": predict})


def _plan(dataset: PairedDataset, store: Store, config: Config, budget_s: float) -> None:
    """Time a short run, and write down what fits the budget."""
    kind = _kind(config)
    batch, sides = config.train_pertdit.global_batch_size, dataset.manifest["splits"]["split"]
    few = {"train": min(sides["train"], TRIAL_STEPS * batch), "valid": min(sides["valid"], FEWEST_VALID)}
    small = subset_dataset(dataset, few, config.seed, _below(store, "trial/data"))
    once = config.model_copy(update={"train_pertdit": config.train_pertdit.model_copy(update={"epochs": 1})})
    trial = _below(store, "trial/model")
    trained(Run(kind=kind, dataset=small, out=trial.url, config=once), "pace of published PertDiT")
    plan = plan_of(kind, read_record(trial).last["wells_per_s"], budget_s, batch, sides)
    store.write_json(PLANNED, plan)
    minutes = f"{budget_s / 60:g} min"
    say(f"{plan['wells_per_s']:.1f} wells/s: {plan['n_train']:,} wells, {plan['epochs']} epochs in {minutes}")


def plan_of(kind: RivalKind, wells_per_s: float, budget_s: float, batch: int, sides: dict[str, int]) -> PertditPlan:
    """Return the wells and epochs that fit a budget: one epoch over as many wells as possible, then more epochs."""
    if sides["train"] < batch:
        raise DataError(f"PertDiT at its published size needs a batch of {batch} training wells; got {sides['train']}")
    affordable = int(SHARE_FOR_TRAINING * budget_s * wells_per_s) // batch * batch
    n_train = min(max(batch, affordable), sides["train"])
    epochs = max(1, affordable // n_train)
    n_valid = min(sides["valid"], max(FEWEST_VALID, int(VALID_SHARE * n_train)))
    return {
        "kind": kind,
        "budget_s": budget_s,
        "wells_per_s": wells_per_s,
        "n_train": n_train,
        "n_valid": n_valid,
        "epochs": epochs,
        "steps": epochs * (n_train // batch),
    }
