"""The checks of a diffusion model against closed forms, on denoisers whose weights are planted."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm_ray.bundle.bundle import LARGEST_LATENT, Bundle, load_bundle, save_bundle
from ldm_ray.bundle.health import DenoiserHealth
from ldm_ray.bundle.run_folder import check_out
from ldm_ray.config import dump_config
from ldm_ray.data.wells import load_wells
from ldm_ray.diffusion.deciles import decile_of, stratified_steps
from ldm_ray.diffusion.samplers import SamplerChoice
from ldm_ray.diffusion.schedule import Schedule
from ldm_ray.errors import BundleError, CheckError, SettingsError
from ldm_ray.evaluation.calibration import calibrate
from ldm_ray.evaluation.health.denoiser import errors_by_decile
from ldm_ray.evaluation.health.verdict import denoiser_doubts, denoiser_failures, require_passed
from ldm_ray.evaluation.predictions import Model, model_inputs
from ldm_ray.layout import RUN, SETTINGS
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.prediction.predictor import Predictor, Query
from ldm_ray.serving.engine import SamplerEngine
from ldm_ray.storage.store import Store
from ldm_ray.training.steps import DiffusionBatch, LdmLossModule
from tests.bundles import SMILES, random_bundle
from tests.conftest import World
from tests.unit.test_options import EMBEDDING, GENES, asked, small

N = 4000
SLOPES: dict[str, Callable[[Schedule], Tensor]] = {
    "x0": lambda schedule: torch.zeros_like(schedule.beta),
    "v": lambda schedule: torch.sqrt(schedule.alpha_bar),
    "epsilon": lambda schedule: 1 / torch.sqrt(schedule.alpha_bar),
    "mean": lambda schedule: -schedule.coef_z / schedule.coef_x0,
}
"""A network whose output is 0 estimates x0_hat = slope z_t. For N(0, 1) latents that of head v is the best there is."""


def planted(head: str, s: float = 0.3, steps: int = 1000) -> LatentDiffusion:
    """A model whose network says 0, and the fraction s of Eq. (7)."""
    config = small(f"denoiser.head={head}", "denoiser.loss=nll", f"schedule.num_steps={steps}")
    model = LatentDiffusion(GENES, EMBEDDING, config).eval()
    model.denoiser.output.weight.data.zero_()  # type: ignore[union-attr]
    model.denoiser.output.bias.data[3:] = math.log(s / (1 - s))  # type: ignore[union-attr,index]
    return model


@pytest.mark.parametrize("head", SLOPES)
def test_errors_by_decile_are_those_of_a_linear_estimate(head: str) -> None:
    """For N(0, 1) latents and x0_hat = k z_t they are (k sqrt(alpha_bar) - 1)^2 + k^2 (1 - alpha_bar)."""
    model, schedule = planted(head), planted(head).diffusion.schedule
    z_0 = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
    encoded = torch.zeros(N, model.condition_encoder.width)
    errors, quantiles = errors_by_decile(model, z_0, encoded, torch.arange(N))
    k, alpha_bar = SLOPES[head](schedule), schedule.alpha_bar
    expected = (k * torch.sqrt(alpha_bar) - 1) ** 2 + k**2 * (1 - alpha_bar)
    np.testing.assert_allclose(errors, expected.view(10, 100).mean(dim=1), rtol=0.06)
    np.testing.assert_allclose(quantiles, 0.3, rtol=1e-6)
    if head == "x0":
        assert errors == [1.0] * 10  # predicting nothing, exactly
    if head == "v":
        np.testing.assert_allclose(errors, (1 - alpha_bar).view(10, 100).mean(dim=1), rtol=0.06)
        assert max(errors) < 1


@pytest.mark.parametrize("num_steps", [1000, 50, 13, 4])
def test_rows_are_spread_evenly_over_the_steps_of_a_decile(num_steps: int) -> None:
    deciles = range(min(10, num_steps))
    drawn = [stratified_steps(decile, torch.arange(600), num_steps) for decile in deciles]
    for decile, t in zip(deciles, drawn, strict=True):
        assert (decile_of(t, num_steps) == decile).all()
        times = torch.bincount(t)[t.min() :]
        assert times.max() - times.min() <= 1
        assert len(times) == 1 or (t.diff() < 0).any()  # in an order of their own, not that of the rows
    assert torch.cat(drawn).unique().tolist() == list(range(num_steps))


def test_validation_reports_the_error_of_predicting_nothing_as_1() -> None:
    module = LdmLossModule(planted("x0"), small("denoiser.head=x0")).eval()
    batch = DiffusionBatch(torch.randn(50, 3), asked(50), torch.arange(50))
    losses = module(batch)
    errors, of_nothing = losses.means["x0"].T
    assert errors.tolist() == of_nothing.tolist()
    assert float(errors.sum()) == pytest.approx(float(losses.parts["x0_mse"]), rel=1e-6)
    assert module.train()(batch).means == {}


def measured(bundle: Bundle, world: World) -> DenoiserHealth:
    return calibrate(bundle, world.dataset).metadata["health"]["denoiser"]


@pytest.mark.parametrize("head", ["v", "x0"])
@pytest.mark.parametrize("mean_head", [False, True])
def test_an_untrained_model_of_a_head_that_holds_stays_in_range(world: World, head: str, mean_head: bool) -> None:
    health = measured(random_bundle(world, f"denoiser.head={head}", f"denoiser.mean_head={mean_head}"), world)
    assert denoiser_failures(health) == []
    assert health["largest_latent"] == 5.0
    assert len(health["x0_error"]) == len(health["s_quantiles"]) == 10
    assert (health["n_wells"], health["sampler"]["steps"]) == (len(load_wells(world.dataset, "valid", 512)), 5)


@pytest.fixture(scope="module")
def literal(world: World) -> Bundle:
    """The literal reading of the paper, whose mean does not contain z_t, over few steps of the whole chain."""
    steps = ("schedule.num_steps=1000", "predict.steps=25")
    return calibrate(random_bundle(world, "preset=paper-literal", *steps), world.dataset)


def test_the_literal_reading_fails_every_check(literal: Bundle) -> None:
    health = literal.metadata["health"]
    (said,) = denoiser_failures(health["denoiser"])
    assert "must stay below 3 x 5, the largest in training; got " in said
    assert "(ancestral with 25 steps); what helps: more steps" in said
    assert health["failed"] == [said, *denoiser_doubts(health["denoiser"])]
    assert "in these tenths of the chain: 1 (" in health["failed"][1]
    assert len(health["failed"]) == 3
    assert not any("\n" in line for line in health["failed"])
    with pytest.raises(CheckError, match=r"^draws leave the range of training: .*--set checks=warn"):
        require_passed([said], "error")
    require_passed([said], "warn")


def test_a_model_that_failed_still_has_rows(world: World, literal: Bundle, tmp_path: Path) -> None:
    """Predictions are refused; scores are finite, and as bad as can be told."""
    with pytest.raises(BundleError, match="NaN or infinite values; its bundle is damaged, badly trained or needs its"):
        Predictor(literal).predict([Query(SMILES, 1.0, 24.0, "SIMC001")])
    wells = load_wells(world.dataset, "test", max_profiles=5)
    inputs = model_inputs(world.dataset, literal, wells.frame["compound_id"].to_numpy(), "ldm")
    for row in Model(inputs, (2,), seed=0).predict(wells):
        assert np.isfinite(row.y_hat).all()
        assert np.abs(row.y_hat).max() > 1e5
    assert bool(literal.tensors["sd_scale"].isfinite().all())
    save_bundle(literal, str(tmp_path))  # JSON has no infinity
    assert load_bundle(str(tmp_path)).metadata["health"] == literal.metadata["health"]


def healthy() -> DenoiserHealth:
    return {
        "n_wells": 512,
        "x0_error": [0.1] * 9 + [1.0],
        "s_quantiles": [[0.1, 0.5, 0.9]] * 10,
        "largest_draw": 6.0,
        "largest_latent": 5.0,
        "draw_variance_ratio": 1.1,
        "sampler": SamplerChoice().fields(),
    }


def test_each_doubt_has_its_line() -> None:
    assert denoiser_doubts(healthy()) == []
    worse = healthy() | {"x0_error": [0.5, 1.2] + [0.5] * 7 + [3e4]}
    assert "tenths of the chain: 2 (1.2), 10 (3e+04)" in denoiser_doubts(worse)[0]  # type: ignore[arg-type]
    narrow = healthy() | {"draw_variance_ratio": 0.01}
    assert "the variance of draws is 0.01 times that of latents" in denoiser_doubts(narrow)[0]  # type: ignore[arg-type]


def test_predictions_out_of_range_say_so(world: World) -> None:
    """The same rule as at calibration; a bundle that does not know its range says nothing."""
    bundle, query = random_bundle(world), [Query(SMILES, 1.0, 24.0, "SIMC001")]
    plain = Predictor(bundle).predict(query)
    near = replace(bundle, tensors=bundle.tensors | {LARGEST_LATENT: torch.tensor(0.1)})
    far = Predictor(near).predict(query, steps=7)
    assert far.out_of_domain[0]
    assert far.notes[0].startswith("do not use: draws reach ")
    assert "training latents 0.1; the bundle's own sampler is ancestral with 5 steps" in far.notes[0]
    assert far.notes[0].endswith(plain.notes[0])
    assert not plain.notes[0].startswith("do not use")
    served = Predictor(near)
    engine, prepared = SamplerEngine(served, max_waiting=10**6), served.reader.prepare_all(query)
    answer = engine.submit(prepared, served.sampling(steps=7)).result(timeout=60)
    assert served.predictions(prepared, answer).notes == far.notes
    engine.stop()
    health = {"denoiser": healthy() | {"largest_draw": 1e9}}
    sick = replace(near, metadata=near.metadata | {"health": health})  # type: ignore[typeddict-item]
    assert "; the bundle's own sampler does not hold either; " in Predictor(sick).predict(query).notes[0]
    older = {name: value for name, value in bundle.tensors.items() if name != LARGEST_LATENT}
    assert Predictor(replace(bundle, tensors=older)).predict(query).notes == plain.notes


def test_an_unfinished_run_takes_other_settings_of_sampling(tmp_path: Path) -> None:
    """They are first used when training has ended; guidance decides which epoch is kept."""
    store = Store(str(tmp_path))
    begun = small("denoiser.guidance_dropout=0.1")
    store.write_bytes(SETTINGS, dump_config(begun).encode())
    store.write_json(f"{RUN}/x.json", {})
    for change in ("predict.steps=20", "predict.n_samples=2", "predict.sampler=ddim", "checks=warn"):
        check_out(store, small("denoiser.guidance_dropout=0.1", change), "resume")
    for change in ("predict.guidance=2", "train_ldm.epochs=7"):
        with pytest.raises(SettingsError, match="--resume needs the settings of the run"):
            check_out(store, small("denoiser.guidance_dropout=0.1", change), "resume")
