"""`ray job submit` on a fresh head: the scripts of `jobs/` with what is in the working directory, data on S3."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ldm_ray.config import dump_config
from ldm_ray.data.dataset import open_dataset
from ldm_ray.storage.store import Store
from tests.conftest import World
from tests.head import Head, last_line
from tests.s3_server import BUCKET, S3Server


@pytest.fixture(scope="module")
def head(s3: S3Server) -> Iterator[Head]:
    with Head(s3.environment) as own:
        yield own


def test_a_job_runs_the_package_of_the_working_directory(head: Head) -> None:
    code, log = head.submit("", "-c", "import json, os, ldm_ray as l; print(json.dumps([l.__file__, os.listdir()]))")
    assert code == 0, log
    package, files = json.loads(next(line for line in log.splitlines() if line.startswith('["')))
    assert "working_dir_files" in package
    assert {"jobs", "ldm_ray", "pyproject.toml"} <= set(files)
    assert not {"tests", "docs", "benchmarks", ".git", ".venv", "demo"} & set(files)


def test_a_command_joins_the_cluster_of_this_machine(head: Head) -> None:
    code = "from ldm_ray.cluster.connect import connect; from ldm_ray.settings import RaySettings; import ray"
    code += "; connect(RaySettings()); print(ray.get_runtime_context().gcs_address)"
    environment = {name: value for name, value in head.environment.items() if name != "RAY_ADDRESS"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout.strip().rpartition(":")[2] == head.gcs.rpartition(":")[2], run.stderr


def test_prepare_from_s3_to_s3_with_settings_by_url(head: Head, s3: S3Server, world: World, tmp_path: Path) -> None:
    """The dataset is the one that the command line makes; the last line says where it is."""
    store = Store(f"s3://{BUCKET}/jobs", s3.options)
    names = {"gctx": world.files.gctx, "inst-info": world.files.inst_info}
    names |= {"pert-info": world.files.pert_info, "gene-info": world.files.gene_info}
    for path in names.values():
        store.write_bytes(f"release/{path.name}", path.read_bytes())
    store.write_bytes("settings.yaml", dump_config(world.config).encode())
    files = [part for name, path in names.items() for part in (f"--{name}", store.path(f"release/{path.name}"))]
    settings = ["--config", store.path("settings.yaml")]
    code, log = head.submit("jobs/prepare.py", *files, "--out", store.path("data"), *settings)
    assert code == 0, log
    assert "writing treated wells: 1,200 of 1,200" in log
    last = last_line(log)
    assert (last["job"], last["exit_code"], last["out"]) == ("prepare", 0, store.path("data"))
    assert last["n_profiles"] == 1200
    made, wanted = open_dataset(store.path("data"), s3.options), world.dataset
    assert made.profiles(["profile_id", "basal_id", "split"]).equals(
        wanted.profiles(["profile_id", "basal_id", "split"])
    )
    code, log = head.submit("jobs/train_vae.py", "--data", store.path("nothing"), "--out", store.path("vae"))
    assert code != 0
    assert f"error: {store.path('nothing')}" in log
    assert "Traceback" not in log
    assert last_line(log)["exit_code"] == 2
