"""The whole chain by `ray job submit` on a fresh head, data and results on S3; a pipeline stopped midway resumes."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ldm_ray.bundle.bundle import load_bundle
from ldm_ray.cluster.train.run import Run, train
from ldm_ray.config import Config, dump_config
from ldm_ray.data.dataset import open_dataset
from ldm_ray.layout import CHECKPOINT_STATE as CHECKPOINT
from ldm_ray.storage.store import Store
from ldm_ray.workflows.pipeline_state import read_steps
from tests.conftest import World, small_config
from tests.head import Head, last_line
from tests.s3_server import BUCKET, S3Server

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

SMALL_REPORT = (
    "evaluate.min_compounds_per_plate=2",
    "evaluate.bootstrap_draws=20",
    "predict.n_samples=4",
    "evaluate.n_samples=[4]",
)


@pytest.fixture(scope="module")
def head(s3: S3Server) -> Iterator[Head]:
    with Head(s3.environment) as own:
        yield own


def test_the_chain_as_six_jobs(head: Head, s3: S3Server, world: World) -> None:
    store = Store(f"s3://{BUCKET}/chain", s3.options)
    files = {"gctx": world.files.gctx, "inst-info": world.files.inst_info}
    files |= {"pert-info": world.files.pert_info, "gene-info": world.files.gene_info}
    for path in files.values():
        store.write_bytes(f"release/{path.name}", path.read_bytes())
    store.write_bytes("settings.yaml", dump_config(small_config(*SMALL_REPORT)).encode())
    store.write_bytes(
        "wanted.csv", b"smiles,cell,dose_um,time_h\nCCO,SIMC001,1,24\nCCC,SIMC002,10,24\nno,SIMC001,1,6\n"
    )
    release = [part for name, path in files.items() for part in (f"--{name}", store.path(f"release/{path.name}"))]
    data, vae, ldm = (store.path(name) for name in ("data", "vae", "ldm"))
    jobs: dict[str, list[str]] = {
        "prepare": [*release, "--out", data],
        "embed": ["--data", data],
        "train_vae": ["--data", data, "--out", vae],
        "train_ldm": ["--data", data, "--vae", vae, "--out", ldm],
        "evaluate": ["--data", data, "--bundle", ldm, "--out", store.path("report")],
        "predict": ["--bundle", ldm, "--conditions", store.path("wanted.csv"), "--out", store.path("predictions")],
    }
    said: dict[str, dict[str, Any]] = {}
    for name, arguments in jobs.items():
        code, log = head.submit(f"jobs/{name}.py", *arguments, "--config", store.path("settings.yaml"))
        assert code == 0, log
        said[name] = last_line(log)
        assert (said[name]["job"], said[name]["exit_code"]) == (name.replace("_", " "), 0)
        print(name, said[name])
    assert said["embed"]["embeddings"].startswith(f"{data}/embeddings/")
    assert (said["train_vae"]["bundle"], said["train_ldm"]["bundle"]) == (vae, ldm)
    assert store.read_json("report/metrics.json")["rows"]
    assert (said["predict"]["n_predicted"], said["predict"]["n_errors"]) == (2, 1)
    assert len(store.read_table("predictions/part-000000.parquet")) == 2


def test_a_pipeline_that_was_stopped_goes_on_at_its_step(head: Head, s3: S3Server, cluster: None) -> None:
    """`ray job stop` while the diffusion model trains; its weights are those of an undisturbed run."""
    store = Store(f"s3://{BUCKET}/pipeline", s3.options)
    config = small_config(*SMALL_REPORT, "train_ldm.epochs=60", "train_ldm.early_stopping_epochs=60",
                          "train_ldm.checkpoint_every_steps=10")  # fmt: skip
    settings = Store(f"s3://{BUCKET}/settings", s3.options)
    settings.write_bytes("pipeline.yaml", dump_config(config).encode())
    arguments = ["--out", store.url, "--config", settings.path("pipeline.yaml")]
    head.submit("jobs/pipeline.py", *arguments, job_id="first", wait=False)
    wait_for(head, "first", lambda: states(store).get("train ldm") == "running" and store.find(CHECKPOINT))
    assert head.job("stop", "first")[0] == 0
    wait_for(head, "", lambda: head.info("first")["status"] == "STOPPED")
    assert states(store)["train ldm"] in ("interrupted", "running")
    assert not store.exists("ldm/metadata.json")
    before = modified(store, s3)
    code, log = head.submit("jobs/pipeline.py", *arguments, job_id="second")
    assert code == 0, log
    for done in ("simulate", "prepare", "train vae"):
        assert f"{done}: s3://{BUCKET}/pipeline/" in log
    assert set(states(store).values()) == {"done"}
    after = modified(store, s3)
    assert {path: after[path] for path in before} == before, "what was done was written again"
    assert store.read_json("predictions/manifest.json")["done"]
    disturbed = load_bundle(store.path("ldm"), "ldm", s3.options)
    assert len(disturbed.metadata["history"]) == 60
    undisturbed = undisturbed_ldm(store, s3, config)
    for name, value in undisturbed.items():
        if value.is_floating_point():
            assert float((disturbed.tensors[name] - value).norm() / value.norm().clamp_min(1e-6)) < 1e-5, name


def undisturbed_ldm(store: Store, s3: S3Server, config: Config) -> dict[str, torch.Tensor]:
    dataset = open_dataset(store.path("data"), s3.options)
    vae = load_bundle(store.path("vae"), "vae", s3.options)
    config = config.model_copy(update={"storage_options": s3.options})
    return dict(
        train(Run(kind="ldm", dataset=dataset, vae=vae, out=f"s3://{BUCKET}/undisturbed-ldm", config=config)).tensors
    )


def states(store: Store) -> dict[str, str]:
    return {step["name"]: step["state"] for step in read_steps(store)}


def modified(store: Store, s3: S3Server) -> dict[str, str]:
    """When each file of the finished steps was written."""
    import s3fs

    fs = s3fs.S3FileSystem(**s3.options["s3"], use_listings_cache=False)
    root = store.url.removeprefix("s3://")
    found = fs.find(root, detail=True)
    keep = ("release", "data/profiles", "data/manifest", "vae/weights", "vae/metadata")
    return {
        path: str(info["LastModified"])
        for path, info in found.items()
        if path.removeprefix(f"{root}/").startswith(keep)
    }


def wait_for(head: Head, job_id: str, reached: Any, within_s: float = 300.0) -> None:
    until = time.monotonic() + within_s
    while not reached():
        if job_id:
            assert head.info(job_id)["status"] in ("PENDING", "RUNNING"), head.log(job_id)
        assert time.monotonic() < until, head.log(job_id) if job_id else "too long"
        time.sleep(0.5)
