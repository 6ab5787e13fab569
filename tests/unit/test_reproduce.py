"""`ldm-ray reproduce`: the paper's settings, its claims judged from planted scores, and the page."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from ldm_ray.config import Config, load_config
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.subset import subset_dataset
from ldm_ray.data.validate import validate
from ldm_ray.errors import DataError, SettingsError
from ldm_ray.evaluation.comparison import compare_models
from ldm_ray.evaluation.report.agreement import claims, verdict_of, verdict_without_intervals, why_data_differ
from ldm_ray.evaluation.report.paper import Folds, PublishedPertdit, Reproduction, reproduction_page, summary_of
from ldm_ray.evaluation.scores.bootstrap import by_compound
from ldm_ray.evaluation.scores.moments import Cloud, GeneMoments
from ldm_ray.evaluation.scores.record import Metrics
from ldm_ray.evaluation.tally import RowTally
from ldm_ray.storage.store import Store
from ldm_ray.workflows.paper_model import paper_config
from ldm_ray.workflows.published_pertdit import plan_of
from ldm_ray.workflows.reproduce import Campaign
from tests.conftest import World

INTERVALS = {"better": [0.1, 0.3], "worse": [-0.3, -0.1], "no clear difference": [-0.1, 0.2]}


def planted(seed: int = 0, interval: str = "better", error: float = 2.0, prediction: str = "one_draw") -> Metrics:
    """Scores of the paper's model and of PRnet, whose correlation error is 3."""
    low, high = INTERVALS[interval]
    scored = {"rmse": 1.2, "pcc": 0.9, "r2": 0.8, "rmse_interval": [1.1, 1.3]}
    rows = [
        {"model": "control", "prediction": "mean", **scored},
        {"model": "paper", "prediction": "one_draw", **scored, "correlation_error": error, "top30_overlap": 9},
        {"model": "paper", "prediction": "mean_of_4", **scored},
        {"model": "prnet", "prediction": "one_draw", **scored, "correlation_error": 3.0, "top30_overlap": 4},
    ]
    pair = {"model": "paper", "than": "prnet", "prediction": prediction, "value": (low + high) / 2}
    described = {"n_parameters": 10, "epochs": 2, "best_epoch": 2, "encoder": "ecfp", "seed": seed}
    metrics = {
        "dataset": "d", "simulated": True, "split": "test", "unseen": "compound", "n_profiles": 100,
        "n_compounds": 9, "n_conditions": 20, "n_cell_lines": 2, "n_plates": 4, "seed": seed, "rows": rows,
        "comparisons": [pair | {"score": score, "interval": [low, high]} for score in ("mse_gain", "pcc", "r2")],
        "ceiling": {"top30_overlap_half_half": 25, "top30_overlap_half_half_pooled": 26},
        "models": [{"name": name, "kind": kind, **described} for name, kind in (("paper", "ldm"), ("prnet", "prnet"))],
        "best_trivial": "control", "best_baseline": "control", "notes": [],
    }  # fmt: skip
    return cast(Metrics, metrics)


def test_a_verdict_needs_all_seeds_on_one_side_of_zero() -> None:
    for verdict, interval in INTERVALS.items():
        assert verdict_of([interval]) == verdict
    assert verdict_of([INTERVALS["better"], INTERVALS["no clear difference"]]) == "no clear difference"
    assert verdict_without_intervals([0.4]) == "no clear difference"
    assert verdict_without_intervals([0.4, 0.2]) == "better"


@pytest.mark.parametrize("verdict", INTERVALS)
def test_claims_follow_the_numbers(verdict: str) -> None:
    scores, structure = claims([planted(0, verdict), planted(1, verdict)])
    assert scores.count(verdict) == 3
    start = {"better": "As published.", "worse": "Not as published.", "no clear difference": "Undecided."}
    assert scores.startswith(start[verdict])
    (means, _) = claims([planted(0, verdict, prediction="mean")])
    assert means.startswith("The paper's model against prnet, means of draws")  # of which nothing is published
    assert "better on the error of the correlations (2.0 against 3.0)" in structure
    assert "worse on the error" in claims([planted(0, error=4.0), planted(1, error=5.0)])[1]
    assert "no verdict" in claims([planted()])[1]


def test_why_the_data_differ_is_said() -> None:
    text = " ".join(why_data_differ([planted()], "100 treated wells", "mean"))
    assert "The controls of this dataset are means of matched wells" in text
    assert "conditions on" not in " ".join(why_data_differ([planted()], "100 treated wells", "well"))
    assert "simulated wells, not biology: 100 treated wells" in text
    assert "Copying the matched control reaches RMSE 1.200" in text


def test_the_page_has_ours_beside_the_published_numbers() -> None:
    collapsed = ["fold 2: check failed: 0 of 256 latent dimensions are active"]
    folds = Folds(5, 240, {"pcc": 0.8, "r2": 0.91, "rmse": 1.0}, {"pcc": 0.01, "r2": 0.01, "rmse": 0.1}, collapsed)
    seconds, what = {"table1": 90.0}, "100 treated wells"
    plan = plan_of("pertdit-ada", 10.0, 100.0, 64, {"train": 500, "valid": 90})
    pertdit: PublishedPertdit = {"plan": plan, "metrics": planted()}
    ill, sick = planted(), planted(1)
    for run, line in ((ill, "1 of 256 are active"), (sick, "draws leave the range")):
        run["models"][0]["health"] = {"failed": [line]}
    result = Reproduction("d", what, [ill, sick], folds, None, pertdit, "mean", seconds, b"png", "a: 1")
    summary = " ".join(summary_of(result))
    assert summary.count("paper: check failed: 1 of 256 are active") == 1
    assert "seed 1: paper: check failed: draws leave the range" in summary
    assert "fold 2: check failed: 0 of 256 latent dimensions are active" in summary
    assert "PCC 0.800 ± 0.010, below (0.956); R2 0.910 ± 0.010, as published (0.914)" in summary
    assert "Table 2 was left out" in summary
    html = reproduction_page(result)
    for shown in (
        "PertDiT (published, other wells)",
        "1.370",
        "0.956",
        "paper, one draw",
        "table1 1.5 min",
        "on 500 wells for 7 steps",
        "Simulated data",
    ):
        assert shown in html, shown


def test_the_papers_model_shares_what_a_comparison_needs() -> None:
    own = load_config("mini", ["evaluate.n_samples=[8]", "predict.n_samples=8", "seed=3"])
    paper = paper_config(own)
    assert (paper.preset, paper.target, paper.vae.latent_dim, paper.predict.steps) == ("paper", "absolute", 256, 1000)
    assert (paper.encoder, paper.evaluate, paper.seed) == (own.encoder, own.evaluate, 3)
    assert (paper.predict.n_samples, paper.train_vae.global_batch_size) == (8, own.train_ldm.global_batch_size)


def test_settings_of_the_papers_model_come_last() -> None:
    def paper(*texts: str, more: tuple[str, ...] = ()) -> Config:
        return paper_config(load_config(None, [f"reproduce.paper={list(texts)}", *more]))

    assert paper("train_vae.epochs=7").train_vae.epochs == 7
    changed = paper("encoder.kind=fcfp", "predict.n_samples=4", "train_ldm={global_batch_size: 32}", "checks=warn")
    assert (changed.encoder.kind, changed.predict.n_samples, changed.checks) == ("fcfp", 4, "warn")
    assert (changed.train_ldm.global_batch_size, changed.train_ldm.min_steps) == (
        32,
        load_config(None, ["preset=paper"]).train_ldm.min_steps,
    )
    assert paper("preset=paper-literal").denoiser.head == "mean"
    with pytest.raises(SettingsError, match="norm_groups must divide ray.lanes = 4; got 8"):
        paper("denoiser.norm_groups=8", more=("ray.lanes=4",))
    with pytest.raises(SettingsError, match="did you mean 'train_vae.epochs'"):
        paper("train_vae.epoch=7")


def test_paired_differences_of_models() -> None:
    """A model with a tenth of the other's squared error on every well saves 90%, without doubt."""
    rng = np.random.default_rng(0)
    squared, compound = rng.uniform(1, 2, 40), np.arange(40) % 8

    def row(model: str, share: float) -> RowTally:
        scores = {"squared": squared * share, "pcc": 0.9 - squared * share, "r2": 0.5 - squared * share}
        return RowTally(model, "one_draw", 1, scores, [Cloud(GeneMoments(1, 2), np.zeros((0, 2)))])

    rows = [row("paper", 0.1), row("prnet", 1.0)]
    found = compare_models(by_compound(compound, 50, 0), compound, rows, ["paper"], ["paper", "prnet"])
    assert [(pair["than"], pair["score"]) for pair in found] == [("prnet", name) for name in ("mse_gain", "pcc", "r2")]
    assert found[0]["value"] == pytest.approx(0.9)
    assert found[0]["interval"] == pytest.approx([0.9, 0.9])
    assert found[1]["interval"][0] > 0


def test_a_sample_of_a_dataset(world: World, tmp_path: Path) -> None:
    """The test side is whole, a larger sample holds a smaller one, and the manifest counts what is there."""
    small, large = (
        subset_dataset(world.dataset, {"train": count, "valid": 10}, 0, Store(str(tmp_path / str(count))))
        for count in (50, 80)
    )
    assert not any(finding.problems for finding in validate(small))
    ids = [set(data.profiles(["profile_id"])["profile_id"].to_pylist()) for data in (small, large)]
    assert ids[0] < ids[1]
    sides = small.manifest["splits"]["split"]
    assert sides == {"train": 50, "valid": 10, "test": world.dataset.manifest["splits"]["split"]["test"]}
    conditions = set(small.profiles(["condition_id"])["condition_id"].to_pylist())
    assert small.manifest["n_conditions"] == len(conditions) < world.dataset.manifest["n_conditions"]
    assert small.manifest["notes"][-1].startswith(f"a sample of {small.manifest['n_profiles']} of ")


def test_a_batch_that_training_cannot_fill_is_refused() -> None:
    with pytest.raises(DataError, match="needs a batch of 64 training wells; got 40"):
        plan_of("pertdit-ada", 10.0, 100.0, 64, {"train": 40, "valid": 9})


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    data, out = Store(str(tmp_path / "data")), Store(str(tmp_path / "out"))
    data.write_json("manifest.json", {})
    dataset, config = cast(PairedDataset, type("Opened", (), {"store": data})()), load_config()
    Campaign(out, dataset, config)
    more = config.model_copy(update={"table1": config.table1.model_copy(update={"seeds": (0, 1)})})
    Campaign(out, dataset, more)
    free = ["checks=warn", "ray.num_workers=1", "track.tensorboard=false", "seed=4", "table1.seeds=[4]"]
    assert Campaign(out, dataset, load_config(None, free)).begun["seed"] == 0  # folds stay those of the first command
    with pytest.raises(DataError, match="holds a campaign with other settings"):
        Campaign(out, dataset, load_config(None, ["train_ldm.epochs=3"]))
    data.write_json("manifest.json", {"n": 1})
    with pytest.raises(DataError, match="on another dataset"):
        Campaign(out, dataset, config)
    with pytest.raises(DataError, match="is not empty"):
        Campaign(data, dataset, config)
