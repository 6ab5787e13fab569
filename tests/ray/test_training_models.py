"""Real Ray Train runs of the diffusion model and of a rival, and their evaluation on Ray."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.bundle.stored_effects import WITHOUT_FOLD
from ldm_ray.cluster.batch.evaluate import block_runner
from ldm_ray.cluster.train.run import Run, train
from ldm_ray.errors import BundleError, CheckError
from ldm_ray.evaluation.suite import evaluate
from ldm_ray.prediction.predictor import Predictor, Query
from ldm_ray.training.status import TrainingStatus
from ldm_ray.workflows.steps import train_now
from tests.bundles import random_autoencoder
from tests.conftest import World, small_config

pytestmark = pytest.mark.usefixtures("cluster")


def train_ldm(world: World, vae: Bundle, out: Path, *overrides: str) -> Bundle:
    config = small_config("train_ldm.epochs=6", *overrides)
    return train(Run(kind="ldm", dataset=world.dataset, vae=vae, out=str(out), config=config))


def test_the_diffusion_model_learns_predicts_and_reads_latents_as_it_likes(world: World, tmp_path: Path) -> None:
    """In memory the noise of each row and step is the same, whether encoded once or at every step and with any number
    of workers; with a stream of latents only the batches differ."""
    vae = random_autoencoder(world)
    bundles = {
        "cached": train_ldm(world, vae, tmp_path / "cached", "ingest.latents=true", "ray.num_workers=2"),
        "uncached": train_ldm(world, vae, tmp_path / "uncached", "ingest.latents=false", "ray.num_workers=1"),
        "streamed": train_ldm(world, vae, tmp_path / "streamed", "ingest.mode=stream", "ray.num_workers=2"),
    }
    losses = {name: [row["valid_loss"] for row in bundle.metadata["history"]] for name, bundle in bundles.items()}
    assert losses["cached"][-1] < losses["cached"][0]
    assert losses["cached"] == pytest.approx(losses["uncached"], rel=1e-4)
    assert losses["streamed"] == pytest.approx(losses["uncached"], rel=0.05)
    for name, bundle in bundles.items():
        scale = bundle.tensors["ldm.latent_scale"]
        assert bool((scale.isfinite() & (scale > 0)).all()), name
        assert torch.equal(bundle.tensors["vae.gene_mean"], vae.tensors["vae.gene_mean"]), name
    mean = Predictor.from_bundle(str(tmp_path / "cached")).predict([Query("CCO", 1.0, 24.0, "SIMC001")]).mean
    assert mean.shape == (1, 978)
    (folder,) = (Path(world.dataset.url) / "latents").iterdir()
    table = pq.read_table(folder / "part-00000.parquet")
    assert set(table["split"].to_pylist()) == {"train", "valid"}
    assert table["moments"].type.list_size == 2 * 8


@pytest.mark.full  # the parts are tested in tests/unit/test_mean_model.py
def test_effects_are_fitted_once_and_taken_off_wells_in_memory_and_streams_alike(world: World, tmp_path: Path) -> None:
    own = ("target=effects", "effects.landmarks=150", "vae.size=true", "denoiser.whiten=true", "train_vae.epochs=4")
    sources = {"resident": ("ray.num_workers=2",), "streamed": ("ingest.mode=stream", "ray.num_workers=1")}
    losses, moments, bundles = {}, {}, {}
    for name, how in sources.items():
        config = small_config(*own, *how)
        vae = train(Run(kind="vae", dataset=world.dataset, out=str(tmp_path / name / "vae"), config=config))
        moments[name] = vae.tensors["vae.unit"]
        bundles[name] = train_ldm(world, vae, tmp_path / name / "ldm", *own, *how)
        losses[name] = [row["valid_loss"] for bundle in (vae, bundles[name]) for row in bundle.metadata["history"]]
        assert WITHOUT_FOLD in vae.tensors
        assert WITHOUT_FOLD not in bundles[name].tensors
        assert torch.equal(bundles[name].tensors["effects.coefficients"], vae.tensors["effects.coefficients"])
    torch.testing.assert_close(moments["streamed"], moments["resident"], rtol=1e-5, atol=1e-6)
    assert losses["streamed"] == pytest.approx(losses["resident"], rel=0.1)
    settings = small_config().evaluate.model_copy(update={"n_samples": (2,), "bootstrap_draws": 10})
    scored = evaluate(world.dataset, [bundles["streamed"]], settings, 0).metrics["rows"]
    rows = {(row["model"], row["prediction"]): row for row in scored}
    assert rows["ldm", "mean_direct"]["rmse"] < rows["mean_delta", "mean"]["rmse"]
    assert rows["ldm-random-residual", "one_draw"]["energy_distance"] < rows["ldm", "mean_direct"]["energy_distance"]


EXPLODES = (
    "denoiser.head=mean", "denoiser.loss=nll", "denoiser.raw_inputs=true", "denoiser.norm=batch",
    "schedule.num_steps=1000", "predict.steps=10", "predict.calibration_wells=32", "train_ldm.epochs=1",
    "ray.num_workers=1",
)  # fmt: skip


@pytest.mark.full  # what is said is tested in tests/unit/test_denoiser_health.py
def test_a_model_whose_draws_explode_is_refused_but_not_lost(world: World, tmp_path: Path) -> None:
    """A raw mean as in the literal reading of the paper; what was trained is kept, and can still be bundled."""
    out, vae = tmp_path / "ldm", random_autoencoder(world, *EXPLODES)
    run = Run(kind="ldm", dataset=world.dataset, vae=vae, out=str(out), config=small_config(*EXPLODES))
    with pytest.raises(CheckError, match=r"^draws leave the range of training: .* --resume takes other predict") as no:
        train(run)
    assert "\n" not in str(no.value)
    assert not (out / "metadata.json").exists()
    warned, began = small_config(*EXPLODES, "checks=warn", "predict.steps=12"), list[TrainingStatus]()
    bundle = train(replace(run, config=warned, begin="resume", on_status=began.append))
    assert not any("step" in status for status in began)  # nothing is trained again
    assert any("(ancestral with 12 steps)" in line for line in bundle.metadata["health"]["failed"])
    with pytest.raises(BundleError, match="NaN or infinite values"):
        Predictor.from_bundle(str(out)).predict([Query("CCO", 1.0, 24.0, "SIMC001")])
    settings = warned.evaluate.model_copy(update={"n_samples": (2,), "bootstrap_draws": 10, "max_profiles": 60})
    rows = evaluate(world.dataset, [bundle], settings, 0).metrics["rows"]
    assert max(row["rmse"] for row in rows if row["model"] == "ldm") > 100


@pytest.mark.parametrize("kind", [pytest.param("prnet", marks=pytest.mark.full), "pertdit-cross"])
def test_a_rival_goes_the_same_way_as_the_model(world: World, tmp_path: Path, kind: str) -> None:
    """Trained by two workers, saved, loaded, queried and scored like the diffusion model."""
    small = ("pertdit.model_dim=8", "pertdit.n_blocks=1", "pertdit.n_heads=1", "pertdit.genes_per_token=109")
    rates = ("train_prnet.epochs=2", "train_pertdit.epochs=2", "train_prnet.global_batch_size=64")
    config = small_config(*small, *rates, "pertdit.num_steps=5", "ray.num_workers=2", "predict.n_samples=2")
    trained = train_now(Run(kind=kind, dataset=world.dataset, out=str(tmp_path / kind), config=config), kind)
    predictor = Predictor.from_bundle(str(tmp_path / kind))
    answer = predictor.predict([Query("CCO", 10.0, 24.0, "SIMC001")], n_draws=1)
    assert answer.mean.shape == (1, 978)
    assert (answer.std > 0).all()
    np.testing.assert_allclose(predictor.sd_scale.numpy(), trained.tensors["sd_scale"].numpy())
    settings = config.evaluate.model_copy(update={"n_samples": (2,), "bootstrap_draws": 10, "max_profiles": 60})
    rows = evaluate(world.dataset, [predictor.bundle], settings, 0).metrics["rows"]
    assert {"one_draw", "mean_of_2"} == {row["prediction"] for row in rows if row["model"] == kind}


def test_evaluation_on_ray_is_evaluation_here(world: World) -> None:
    """Blocks scored by actors and merged give the numbers of one process."""
    here, ray_config = (small_config("evaluate.rows_per_block=60", f"evaluate.workers={n}") for n in (1, 2))
    one = evaluate(world.dataset, [], here.evaluate, 0, run=block_runner(here)).metrics
    two = evaluate(world.dataset, [], ray_config.evaluate, 0, run=block_runner(ray_config)).metrics
    for row, other in zip(one["rows"], two["rows"], strict=True):
        for key, value in row.items():
            if isinstance(value, float):
                assert other[key] == pytest.approx(value, abs=1e-9), (row["model"], key)
