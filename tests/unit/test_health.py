"""An autoencoder's health: closed forms, planted collapses, what follows, and where it is shown."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ldm_ray.bundle.bundle import Bundle, load_bundle, prefixed, save_bundle
from ldm_ray.bundle.health import UNBOUNDED, AutoencoderHealth, DenoiserHealth, Health
from ldm_ray.bundle.metadata import base_parts, dataset_metadata
from ldm_ray.bundle.target_base import fit_base
from ldm_ray.cluster.train.run import Run, train
from ldm_ray.config import Config
from ldm_ray.data.wells import load_wells
from ldm_ray.diffusion.samplers import SamplerChoice
from ldm_ray.effects.wells import DatasetBase
from ldm_ray.errors import BundleError, CheckError
from ldm_ray.evaluation.health.autoencoder import examine_autoencoder
from ldm_ray.evaluation.health.components import fit_components
from ldm_ray.evaluation.health.examine import examined
from ldm_ray.evaluation.health.figures import health_figures
from ldm_ray.evaluation.report.folder import in_short
from ldm_ray.evaluation.report.health import draw_health, health_tables
from ldm_ray.evaluation.scores.reconstruction import ReconstructionTally
from ldm_ray.evaluation.scores.record import Metrics, ModelDescription
from ldm_ray.evaluation.suite import describe_model
from ldm_ray.models.latent_use import kl_per_dimension, latent_means, latent_use
from ldm_ray.models.vae import Vae
from ldm_ray.tracking.summary import health_summary
from tests.bundles import random_autoencoder, random_bundle
from tests.conftest import World, small_config
from tests.training_here import autoencoder_of

ACTIVE = 5


def test_use_of_a_latent_is_that_of_the_definitions() -> None:
    g = torch.Generator().manual_seed(0)
    mu, log_var = torch.randn(40, 3, generator=g) * torch.tensor([1.0, 0.05, 0.2]), torch.randn(40, 3, generator=g)
    q = torch.distributions.Normal(mu, torch.exp(log_var / 2))
    wanted = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(kl_per_dimension(mu, log_var), wanted)
    pieces = [(mu[:7], log_var[:7]), (mu[7:], log_var[7:])]
    use = latent_use(sum(latent_means(*piece) * len(piece[0]) / 40 for piece in pieces))  # type: ignore[arg-type]
    torch.testing.assert_close(use.variance.float(), mu.var(0, correction=0))
    torch.testing.assert_close(use.kl_nats.float(), wanted.mean(0))
    assert use.active_units == 2


def linear_autoencoder(world: World, config: Config) -> Bundle:
    """An autoencoder that is PCA: 5 of its dimensions are scaled components, the other 3 are noise."""
    base = fit_base(world.dataset, config)
    found = fit_components(world.dataset, base.on(world.dataset), ACTIVE, config.seed)
    directions = torch.from_numpy(found.directions.copy()).float()
    vae = Vae(978, config.vae)
    vae.set_scaling(torch.from_numpy(found.mean).float(), torch.ones(978))
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.zero_()
        vae.mu_head.weight[:ACTIVE] = directions / 2
        vae.decoder[-1].weight[:, :ACTIVE] = 2 * directions.T  # type: ignore[index,union-attr]
    described, shifts = base_parts(base)
    return Bundle("vae", config, dataset_metadata(world.dataset) | described, shifts | prefixed("vae.", vae))


@pytest.mark.parametrize("target", ["absolute", "residual"])
def test_a_linear_autoencoder_scores_as_its_closed_form(world: World, target: str) -> None:
    config = small_config("vae.encoder_widths=[]", f"target={target}")
    bundle, dataset = linear_autoencoder(world, config), world.dataset
    health = examine_autoencoder(bundle, dataset)
    base = bundle.target_base().on(dataset).table
    train, valid = (load_wells(dataset, split) for split in ("train", "valid"))
    x, y = (wells.y - base[wells.frame["basal_id"].to_numpy()].astype(np.float64) for wells in (train, valid))
    mean = x.mean(axis=0)
    directions = np.linalg.svd(x - mean, full_matrices=False)[2]
    start = valid.y - y
    for row, components in (("decoder", ACTIVE), ("pca", 8), ("constant", 0)):
        own = directions[:components]
        tally = ReconstructionTally()
        tally.add(valid.y, start + mean + (y - mean) @ own.T @ own)
        assert health[row] == pytest.approx(tally.scores(), rel=1e-4), row  # type: ignore[literal-required]
    mu = (y - mean) @ directions[:ACTIVE].T / 2
    assert (health["active_units"], health["latent_dim"], health["pca_components"]) == (ACTIVE, 8, 8)
    assert health["kl_nats"][:ACTIVE] == pytest.approx(sorted((mu**2).mean(axis=0) / 2, reverse=True), rel=1e-4)
    assert health["kl_nats"][ACTIVE:] == [0.0] * 3
    assert health["n_wells"] == len(valid)


def test_components_are_at_most_as_many_as_wells_tell(world: World) -> None:
    base = DatasetBase(np.zeros_like(world.dataset.basal_expression))
    wells = load_wells(world.dataset, "train")
    found = fit_components(world.dataset, base, 5000, 0)
    assert len(found.directions) == min(len(wells) - 1, 978)
    np.testing.assert_allclose(found.reconstruct(wells.y), wells.y, atol=1e-3)


def test_every_epoch_shows_what_the_finished_autoencoder_has(world: World) -> None:
    bundle = examined(autoencoder_of(world.dataset, small_config()), world.dataset)
    last, health = bundle.metadata["history"][-1], bundle.metadata["health"]["autoencoder"]
    assert bundle.metadata["best_epoch"] == len(bundle.metadata["history"]) - 1
    assert last["valid_active_units"] == health["active_units"] == 8
    assert last["valid_kl_nats"] == pytest.approx(sum(health["kl_nats"]), rel=1e-5)


@pytest.mark.parametrize("overrides", [("vae.latent_dim=4",), ("preset=paper",)])
def test_a_small_autoencoder_passes_after_two_epochs(world: World, overrides: tuple[str, ...]) -> None:
    bundle = examined(autoencoder_of(world.dataset, small_config(*overrides)), world.dataset)
    assert bundle.metadata["health"]["failed"] == []


def dead(world: World) -> Bundle:
    """An autoencoder whose encoder says the same of every well."""
    bundle = random_autoencoder(world)
    silent = {
        name: torch.zeros_like(bundle.tensors[name]) for name in ("vae.mu_head.weight", "vae.log_var_head.weight")
    }
    return replace(bundle, tensors=bundle.tensors | silent)


def shouting(world: World) -> Bundle:
    """An autoencoder whose latent is alive, and whose decoder answers anything but the well."""
    bundle = random_autoencoder(world)
    name = next(name for name in bundle.tensors if name.startswith("vae.decoder") and name.endswith("weight"))
    return replace(bundle, tensors=bundle.tensors | {name: bundle.tensors[name] * 20})


def literal(world: World) -> Bundle:
    """An autoencoder trained as the paper's recipe reads."""
    return autoencoder_of(world.dataset, small_config("preset=paper-literal"))


@pytest.mark.parametrize(
    ("planted", "figures"),
    [
        (
            dead,
            r"has collapsed: 0 of 8 latent dimensions are active \(at least 1 wanted\), its decoder has RMSE 1\.\d+",
        ),
        (
            shouting,
            r"does not give wells back: its decoder has RMSE \d+\.\d+ \(mean of the training wells 1\.\d+, 8 principal",
        ),
        (
            literal,
            r"has collapsed: 0 of 8 latent dimensions are active .*RMSE \d+\.\d+ \(mean of the training wells 1\.\d+",
        ),
    ],
)
def test_no_diffusion_model_is_trained_on_a_collapsed_autoencoder(
    world: World, tmp_path: Path, planted: object, figures: str
) -> None:
    """Unless `checks` is `warn`; then the run goes on, here to the next refusal."""
    vae = planted(world)  # type: ignore[operator]
    store = tmp_path / "ldm"
    save_bundle(random_bundle(world), str(store))

    def run(checks: str) -> Run:
        config = small_config(f"target={vae.config.target}", f"checks={checks}")
        return Run(kind="ldm", dataset=world.dataset, vae=vae, out=str(store), config=config)

    with pytest.raises(CheckError, match=rf"^the autoencoder {figures}[^\n]*checks=warn goes on"):
        train(run("error"))
    with pytest.raises(BundleError, match="already holds a bundle"):
        train(run("warn"))


MEASURED: AutoencoderHealth = {
    "n_wells": 276,
    "latent_dim": 3,
    "active_units": 0,
    "kl_nats": [0.5, 0.25, 0.0],
    "decoder": {"pcc": 0.9, "r2": 0.81, "rmse": 1.234},
    "constant": {"pcc": 0.8, "r2": 0.7, "rmse": 1.1},
    "pca": {"pcc": 0.95, "r2": 0.92, "rmse": 0.9},
    "pca_components": 3,
}
DENOISER: DenoiserHealth = {
    "n_wells": 276,
    "x0_error": [round(0.1 * number, 1) for number in range(1, 11)],
    "s_quantiles": [[0.1, 0.5, 0.9]] * 10,
    "largest_draw": 5.0,
    "largest_latent": 6.0,
    "draw_variance_ratio": 1.1,
    "sampler": SamplerChoice().fields(),
}
HEALTH: Health = {"autoencoder": MEASURED, "denoiser": DENOISER, "failed": ["the autoencoder has collapsed: so it is"]}


def sick(world: World) -> Bundle:
    bundle = random_bundle(world)
    more = {"health": HEALTH, "history": [{"epoch": 0.0, "valid_loss": 1.0}], "best_epoch": 0}
    return replace(bundle, metadata=bundle.metadata | more)  # type: ignore[typeddict-item]


def test_figures_have_stable_names_and_a_short_form() -> None:
    figures = health_figures(HEALTH)
    assert figures["autoencoder_active_units"] == 0.0
    assert figures["autoencoder_kl_nats"] == 0.75
    assert figures["autoencoder_decoder_r2"] == 0.81
    assert [figures[f"denoiser_x0_error_{decile}"] for decile in (1, 10)] == [0.1, 1.0]
    assert figures["failed_checks"] == 1.0
    assert health_summary(figures) == "FAILED: units 0/3, R2 0.81 (PCA 0.92), x0 error 0.10-1.00"
    assert health_figures({}) == {}
    assert health_summary({}) == "-"
    assert health_summary({"denoiser_x0_error_1": 0.1, "denoiser_x0_error_10": UNBOUNDED}) == "x0 error 0.10-infinity"


def test_which_epoch_is_kept(world: World) -> None:
    """At a high and constant learning rate the loss rises and falls, and the best epoch is not the last."""
    restless = ("train_vae.learning_rate=0.5", "train_vae.learning_rate_shape=plateau", "train_vae.epochs=4")
    for keep, kept in (("loss", False), ("last", True)):
        metadata = autoencoder_of(
            world.dataset, small_config(*restless, "train_vae.ema_decay=0", f"train_vae.keep={keep}")
        ).metadata
        losses = [row["valid_loss"] for row in metadata["history"]]
        assert min(losses) < losses[-1]
        assert (metadata["best_epoch"] == 3) is kept
        assert metadata["history"][-1]["best_loss"] == (losses[-1] if kept else min(losses))


def test_the_card_has_failed_checks_on_top_and_all_figures(world: World, tmp_path: Path) -> None:
    save_bundle(sick(world), str(tmp_path))
    card = (tmp_path / "README.md").read_text()
    assert card.index("**Check failed: the autoencoder has collapsed: so it is.**") < card.index("## Use")
    for line in (
        "| reconstruction of validation wells | PCC | R2 | RMSE |",
        "| decoder, from the mean latent | 0.900 | 0.810 | 1.234 |",
        "| 3 principal components of training wells | 0.950 | 0.920 | 0.900 |",
        "| mean of the training wells | 0.800 | 0.700 | 1.100 |",
        "| 10 | 1.000 | 0.100 | 0.500 | 0.900 |",
    ):
        assert line in card
    assert "0 of 3 latent dimensions are active" in card
    assert load_bundle(str(tmp_path)).metadata["health"] == HEALTH


def test_the_report_shows_each_model_s_parts(world: World) -> None:
    described = describe_model("ldm", sick(world))
    older: ModelDescription = {**described, "name": "ldm-2"}
    del older["health"]
    models = [described, older]
    tables = health_tables(models)
    assert [table.title for table in tables] == ["the autoencoder of ldm", "the denoiser of ldm"]
    assert tables[0].body[0] == ["decoder, from the mean latent", "0.900", "0.810", "1.234"]
    figure = draw_health(models)
    assert figure is not None
    bars, errors = figure.axes
    assert [patch.get_height() for patch in bars.patches] == MEASURED["kl_nats"]  # type: ignore[attr-defined]
    assert len(errors.patches) == 10
    assert draw_health(models[1:]) is None
    metrics: Metrics = {"models": models, "n_compounds": 3}  # type: ignore[typeddict-item]
    assert in_short(metrics)[0] == "ldm: check failed: the autoencoder has collapsed: so it is"
