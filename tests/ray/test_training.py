"""Real Ray Train runs: a killed worker, a killed driver, and what is said of an output that is in the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ldm_ray.bundle.bundle import Bundle, load_bundle
from ldm_ray.bundle.run_folder import as_begun
from ldm_ray.cluster.batch.evaluate import block_runner
from ldm_ray.cluster.train.run import Run, train
from ldm_ray.config import Config, dump_config
from ldm_ray.data.dataset import open_dataset
from ldm_ray.data.l1000 import read_l1000
from ldm_ray.data.prepare import prepare
from ldm_ray.errors import BundleError, DataError, LdmRayError, SettingsError
from ldm_ray.evaluation.suite import evaluate
from ldm_ray.prediction.predictor import Predictor, Query
from ldm_ray.storage.store import Store
from ldm_ray.workflows.steps import train_now
from tests.conftest import World, small_config
from tests.processes import name_of, tree

LONG = ("train_vae.epochs=24", "train_vae.checkpoint_every_steps=7", "train_vae.early_stopping_epochs=24")


def difference(a: Bundle, b: Bundle) -> float:
    """Largest relative difference of any tensor, by norm."""
    assert a.tensors.keys() == b.tensors.keys()
    return max(float((a.tensors[n] - b.tensors[n]).norm() / b.tensors[n].norm().clamp_min(1e-6)) for n in a.tensors)


def train_workers() -> list[int]:
    """Process ids of this test's own Ray Train workers."""
    return [pid for pid in tree(os.getpid()) if name_of(pid).startswith("ray::") and "RayTrainWorker" in name_of(pid)]


@pytest.fixture(scope="module")
def undisturbed(world: World, cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = str(tmp_path_factory.mktemp("undisturbed") / "vae")
    return train(Run(kind="vae", dataset=world.dataset, out=out, config=small_config(*LONG, "ray.num_workers=2")))


def test_a_run_ends_in_a_bundle_that_learnt_something(undisturbed: Bundle) -> None:
    history = undisturbed.metadata["history"]
    assert history[-1]["best_loss"] < 0.97 * history[0]["valid_loss"]
    assert history[-1]["step"] == 24 * history[0]["step"]


@pytest.mark.usefixtures("cluster")
def test_one_ray_worker_equals_two(world: World, undisturbed: Bundle, tmp_path: Path) -> None:
    """The whole path through Ray Data and Ray Train, over 24 epochs; the first steps are held to 1e-5 elsewhere."""
    alone = train(
        Run(
            kind="vae",
            dataset=world.dataset,
            out=str(tmp_path / "vae"),
            config=small_config(*LONG, "ray.num_workers=1"),
        )
    )
    assert difference(alone, undisturbed) < 1e-3
    losses = [[row["valid_loss"] for row in bundle.metadata["history"]] for bundle in (alone, undisturbed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_leaves_the_result_alone(world: World, undisturbed: Bundle, tmp_path: Path) -> None:
    """SIGKILL of one rank midway: both restart from the checkpoint and end with the same weights."""
    killed: list[int] = []

    def kill_once(status: dict[str, Any]) -> None:
        if not killed and status.get("step", 0) > 20:
            killed.append(train_workers()[0])
            os.kill(killed[0], signal.SIGKILL)

    bundle = train(
        Run(
            kind="vae",
            dataset=world.dataset,
            out=str(tmp_path / "vae"),
            config=small_config(*LONG, "ray.num_workers=2"),
            on_status=kill_once,
        )
    )
    assert killed
    assert difference(bundle, undisturbed) < 1e-5
    losses = [[row["valid_loss"] for row in b.metadata["history"]] for b in (bundle, undisturbed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.full  # a pipeline's driver is stopped in tests/drills/test_jobs.py, a search's killed in test_tune.py
def test_a_killed_driver_is_resumed(world: World, undisturbed: Bundle, tmp_path: Path) -> None:
    """The whole process tree is killed after a checkpoint; `--resume` ends with the same weights."""
    config, out = small_config(*LONG, "ray.num_workers=2"), tmp_path / "vae"
    settings = tmp_path / "settings.yaml"
    settings.write_text(dump_config(config))
    command = [sys.executable, "-m", "ldm_ray.cli", "train", "vae", "--data", world.dataset.url]
    command += ["--out", str(out), "--config", str(settings)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((out / "run").glob("checkpoint_*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "metadata.json").exists()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert "holds an unfinished run; --resume goes on with it" in again.stderr
    resumed = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert difference(load_bundle(str(out)), undisturbed) < 1e-5
    assert not (out / "run").exists()


@pytest.mark.usefixtures("cluster")
def test_the_diffusion_model_trains_to_a_bundle_that_predicts(
    world: World, undisturbed: Bundle, tmp_path: Path
) -> None:
    from ldm_ray.prediction.predictor import Predictor, Query

    config = small_config("train_ldm.epochs=4", "ray.num_workers=2")
    bundle = train(Run(kind="ldm", dataset=world.dataset, vae=undisturbed, out=str(tmp_path / "ldm"), config=config))
    history = bundle.metadata["history"]
    assert history[-1]["valid_loss"] < history[0]["valid_loss"]
    mean = Predictor.from_bundle(str(tmp_path / "ldm")).predict([Query("CCO", 1.0, 24.0, "SIMC001")]).mean
    assert mean.shape == (1, 978)
    latents = bundle.tensors["ldm.latent_scale"]
    assert bool((latents > 0).all())
    assert torch.equal(bundle.tensors["vae.gene_mean"], undisturbed.tensors["vae.gene_mean"])


@pytest.mark.usefixtures("cluster")
def test_latents_encoded_once_train_the_same_model(world: World, undisturbed: Bundle, tmp_path: Path) -> None:
    """In memory the noise of each row and step is the same; from a stream of latents only the batches differ."""
    losses = {}
    for name, overrides in {
        "uncached": ("ingest.latents=false",),
        "cached": ("ingest.latents=true",),
        "streamed": ("ingest.mode=stream",),
    }.items():
        config = small_config("train_ldm.epochs=6", "ray.num_workers=2", *overrides)
        bundle = train(Run(kind="ldm", dataset=world.dataset, vae=undisturbed, out=str(tmp_path / name), config=config))
        losses[name] = [row["valid_loss"] for row in bundle.metadata["history"]]
        assert bundle.tensors["ldm.latent_scale"].isfinite().all()
    assert losses["cached"] == pytest.approx(losses["uncached"], rel=1e-4)
    assert losses["streamed"] == pytest.approx(losses["uncached"], rel=0.05)
    (folder,) = (Path(world.dataset.url) / "latents").iterdir()
    table = pq.read_table(folder / "part-00000.parquet")
    assert set(table["split"].to_pylist()) == {"train", "valid"}
    assert table["moments"].type.list_size == 2 * 8


@pytest.mark.usefixtures("cluster")
def test_a_loss_that_explodes_is_one_clear_line(world: World, tmp_path: Path) -> None:
    config = small_config("train_vae.learning_rate=1e30", "train_vae.gradient_clip_norm=1e30", "ray.num_workers=1")
    with pytest.raises(LdmRayError, match="the training loss is (nan|inf) in epoch"):
        train(Run(kind="vae", dataset=world.dataset, out=str(tmp_path / "vae"), config=config))


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (("ray.num_workers=64",), SettingsError, "ray.num_workers is 64; the cluster has"),
        (
            ("train_vae.global_batch_size=60", "ingest.mode=resident"),
            SettingsError,
            "must be a multiple of ray.lanes = 16",
        ),
        (
            ("train_vae.global_batch_size=61", "ray.num_workers=2"),
            SettingsError,
            "must be a multiple of the number of workers, 2; got 61",
        ),
        (("train_vae.global_batch_size=100000",), DataError, "the training split has only"),
    ],
)
def test_settings_that_cannot_run_are_said_before_anything_starts(
    world: World, tmp_path: Path, overrides: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(Run(kind="vae", dataset=world.dataset, out=str(tmp_path / "vae"), config=small_config(*overrides)))


def interrupted(folder: Path, config: Config, share: dict[str, Any]) -> Store:
    """Leave what a run leaves that was killed; `share` is how its wells were dealt out."""
    store = Store(str(folder))
    store.write_bytes("settings.yaml", dump_config(config).encode())
    store.write_json("run/x.json", {})
    store.write_json("workers.json", share)
    return store


@pytest.mark.usefixtures("cluster")
def test_a_stream_is_resumed_by_as_many_workers_only(world: World, tmp_path: Path) -> None:
    """A step of a streamed epoch means other wells with another number of workers."""
    config = small_config("ingest.mode=stream", "ray.num_workers=2")
    store = interrupted(tmp_path, config, {"num_workers": 1, "mode": "stream"})
    with pytest.raises(SettingsError, match="begun with ray.num_workers=1 and ingest.mode=stream; got 2, stream"):
        train(Run(kind="vae", dataset=world.dataset, out=str(tmp_path), config=config, begin="resume"))
    # Where no number is asked for, it is that of the run and not the cluster's.
    derived = config.model_copy(update={"ray": config.ray.model_copy(update={"num_workers": 0})})
    assert as_begun(derived.ray, store).num_workers == 1
    assert as_begun(config.ray, store).num_workers == 2


@pytest.mark.usefixtures("cluster")
def test_wells_in_memory_are_resumed_in_the_same_lanes(world: World, tmp_path: Path) -> None:
    """Lanes, not workers, decide which wells meet in a batch."""
    config = small_config("ingest.mode=resident", "ray.lanes=4")
    interrupted(tmp_path, config, {"num_workers": 1, "mode": "resident", "lanes": 8})
    with pytest.raises(SettingsError, match="was begun with ray.lanes=8; got 4"):
        train(Run(kind="vae", dataset=world.dataset, out=str(tmp_path), config=config, begin="resume"))


@pytest.mark.usefixtures("cluster")
def test_a_dataset_without_validation_wells_is_said(world: World, tmp_path: Path) -> None:
    files = world.files
    config = small_config("splits.valid_fraction=0", "ingest.mode=stream")
    prepare(read_l1000(files.gctx, files.inst_info, files.pert_info, files.gene_info), str(tmp_path / "data"), config)
    with pytest.raises(DataError, match="validation split must have a profile for each of 2 workers; it has 0"):
        train(Run(kind="vae", dataset=open_dataset(str(tmp_path / "data")), out=str(tmp_path / "vae"), config=config))


@pytest.mark.usefixtures("cluster")
def test_what_is_there_already_is_kept(world: World, undisturbed: Bundle, tmp_path: Path) -> None:
    config: Config = small_config()
    from ldm_ray.bundle.bundle import save_bundle

    out = str(tmp_path / "vae")
    with pytest.raises(BundleError, match="holds no unfinished run to resume"):
        train(Run(kind="vae", dataset=world.dataset, out=out, config=config, begin="resume"))
    save_bundle(undisturbed, out)
    with pytest.raises(BundleError, match="already holds a bundle; --overwrite"):
        train(Run(kind="vae", dataset=world.dataset, out=out, config=config))
    other = small_config("target=absolute")
    with pytest.raises(BundleError, match="trained with target 'delta'; got 'absolute'"):
        train(Run(kind="ldm", dataset=world.dataset, vae=undisturbed, out=str(tmp_path / "ldm"), config=other))


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("kind", [pytest.param("prnet", marks=pytest.mark.full), "pertdit-cross"])
def test_a_rival_goes_the_same_way_as_the_model(world: World, tmp_path: Path, kind: str) -> None:
    """Trained by two workers, saved, loaded, asked and judged like the diffusion model."""
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


@pytest.mark.usefixtures("cluster")
def test_evaluation_on_ray_is_evaluation_here(world: World) -> None:
    """Blocks scored by actors and merged give the numbers of one process."""
    here, ray_config = (small_config("evaluate.rows_per_block=60", f"evaluate.workers={n}") for n in (1, 2))
    one = evaluate(world.dataset, [], here.evaluate, 0, run=block_runner(here)).metrics
    two = evaluate(world.dataset, [], ray_config.evaluate, 0, run=block_runner(ray_config)).metrics
    for row, other in zip(one["rows"], two["rows"], strict=True):
        for key, value in row.items():
            if isinstance(value, float):
                assert other[key] == pytest.approx(value, abs=1e-9), (row["model"], key)
