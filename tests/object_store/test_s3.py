"""Everything that users put into buckets, on a real S3 server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from cmapPy.pandasGEXpress import parse

from ldm_ray.config import Config
from ldm_ray.data.dataset import open_dataset
from ldm_ray.data.prepare import prepare
from ldm_ray.data.releases.gctx import COLUMN_IDS, MATRIX, ROW_IDS, open_gctx
from ldm_ray.data.releases.h5ad import read_h5ad
from ldm_ray.data.releases.l1000 import read_l1000
from ldm_ray.data.validate import validate
from ldm_ray.errors import NonFiniteError, StoreError
from ldm_ray.storage.source import source_file
from ldm_ray.storage.store import Store
from tests.conftest import small_config
from tests.s3_server import BUCKET, S3Server


def put(server: S3Server, folder: str, *paths: Path) -> list[str]:
    """Upload files; return their URLs."""
    store = Store(f"s3://{BUCKET}/{folder}", server.options)
    for path in paths:
        store.write_bytes(path.name, path.read_bytes())
    return [store.path(path.name) for path in paths]


def config_for(server: S3Server, *overrides: str) -> Config:
    config = small_config("cleaning.min_profiles_per_compound=1", *overrides)
    return config.model_copy(update={"storage_options": server.options})


def test_the_real_release_from_s3_is_the_one_from_disk(
    s3: S3Server, mini_release: tuple[Path, Path, Path, Path], tmp_path: Path
) -> None:
    config = config_for(s3, "prepare.rows_per_file=300")
    files = [source_file(url, s3.options) for url in put(s3, "mini", *mini_release)]
    root = f"s3://{BUCKET}/mini/data"
    prepare(read_l1000(*files), root, config)
    prepare(read_l1000(*mini_release), str(tmp_path / "local"), config)
    remote, local = open_dataset(root, s3.options), open_dataset(str(tmp_path / "local"))
    columns = ["profile_id", "expression", "basal_id", "split"]
    assert remote.profiles(columns).equals(local.profiles(columns))
    assert remote.basal.equals(local.basal)
    assert remote.manifest["files"] == local.manifest["files"]
    assert "etag" in remote.manifest["sources"][0]
    assert [finding.problems for finding in validate(remote)] == [[]] * 8
    assert "secret" not in json.dumps(remote.manifest) + remote.store.read_bytes("settings.yaml").decode()


def test_the_real_h5ad_from_s3_is_valid(
    s3: S3Server, real_data: Path, mini_release: tuple[Path, Path, Path, Path]
) -> None:
    h5ad, genes = put(s3, "h5ad", real_data / "prnet_demo_HT115.h5ad", mini_release[3])
    release = read_h5ad(source_file(h5ad, s3.options), source_file(genes, s3.options))
    assert prepare(release, f"s3://{BUCKET}/h5ad/data", config_for(s3))["n_profiles"] == 661
    dataset = open_dataset(f"s3://{BUCKET}/h5ad/data", s3.options)
    assert [finding.problems for finding in validate(dataset)] == [[]] * 8


LAYOUTS = {
    "contiguous": {},
    "rows": {"chunks": (7, 120)},
    "tiles": {"chunks": (16, 11)},
    "gzip": {"chunks": (16, 11), "compression": "gzip", "shuffle": True},
    "float16": {"chunks": (10, 33), "dtype": "f2"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gctx_in_every_layout_is_read_by_ranges(s3: S3Server, tmp_path: Path, layout: str) -> None:
    """Blocks, chunks and runs of columns give what plain h5py and cmapPy give."""
    rng = np.random.default_rng(1)
    values = rng.normal(7, 2, (90, 120)).astype("f2").astype("f4")
    path = tmp_path / f"{layout}.gctx"
    with h5py.File(path, "w") as file:
        file.attrs["version"] = np.bytes_(b"GCTX1.0")
        file.create_dataset(ROW_IDS, data=np.array([str(i) for i in range(120)], dtype="S"))
        file.create_dataset(COLUMN_IDS, data=np.array([f"w{i}" for i in range(90)], dtype="S"))
        file.create_dataset(MATRIX, data=values, **({"dtype": "f4"} | LAYOUTS[layout]))
    (url,) = put(s3, "gctx", path)
    rows = np.sort(rng.permutation(90)[:41])
    genes = rng.permutation(120)[:17]
    for reader in (open_gctx(path), open_gctx(source_file(url, s3.options))):
        assert reader.profile_ids[3] == "w3"
        found = np.full((41, 17), np.nan, np.float32)
        blocks = list(reader.blocks(rows, genes, block_mb=1))
        for positions, block in blocks:
            found[positions] = block
        np.testing.assert_array_equal(found, values[rows][:, genes])
    table = parse.parse(str(path), convert_neg_666=False).data_df
    np.testing.assert_array_equal(table.to_numpy()[genes][:, rows].T, found)


def test_a_nan_behind_a_url_is_named(s3: S3Server, tmp_path: Path) -> None:
    path = tmp_path / "nan.gctx"
    with h5py.File(path, "w") as file:
        file.create_dataset(ROW_IDS, data=np.array(["1", "2"], dtype="S"))
        file.create_dataset(COLUMN_IDS, data=np.array(["w0", "w1"], dtype="S"))
        file.create_dataset(MATRIX, data=np.array([[1.0, 2.0], [np.nan, 2.0]], dtype="f4"))
    (url,) = put(s3, "gctx", path)
    reader = open_gctx(source_file(url, s3.options))
    with pytest.raises(NonFiniteError, match=r"s3://ldm-ray/gctx/nan.gctx: profile w1 holds NaN"):
        list(reader.blocks(np.arange(2), np.arange(2), 1))


@pytest.fixture
def environment(s3: S3Server) -> dict[str, str]:
    keep = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return keep | s3.environment | {"AWS_EC2_METADATA_DISABLED": "true"}


def run(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "ldm_ray.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def test_the_command_line_takes_urls_and_the_environments_credentials(
    s3: S3Server, environment: dict[str, str], mini_release: tuple[Path, Path, Path, Path], tmp_path: Path
) -> None:
    """Prepare, validate and describe, from bucket to bucket; then the messages when something is wrong."""
    gctx, inst, pert, genes = put(s3, "cli", *mini_release)
    root = f"s3://{BUCKET}/cli/data"
    release = ["--gctx", gctx, "--inst-info", inst, "--pert-info", pert, "--gene-info", genes, "--out", root]
    rule = ["--set", "cleaning.min_profiles_per_compound=1"]
    done = run(environment, "prepare", *release, *rule)
    assert done.returncode == 0, done.stderr
    done = run(environment, "data", "validate", root, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["valid"] is True
    done = run(environment, "data", "describe", root, "--out", f"s3://{BUCKET}/cli/pictures")
    assert done.returncode == 0, done.stderr
    assert Store(f"s3://{BUCKET}/cli/pictures", s3.options).names() == [
        "dose_time_grid.png", "expression.png", "profiles_per_cell.png",
    ]  # fmt: skip
    for changed, message in [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "cannot be opened|Forbidden|signature|Access"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "connect"),
    ]:
        failed = run(environment | changed, "data", "describe", root)
        assert failed.returncode == 2, failed.stderr
        (line,) = failed.stderr.strip().splitlines()
        assert line.startswith(f"error: {root}"), line
        assert any(word.lower() in line.lower() for word in message.split("|")), line


def test_a_public_bucket_needs_no_credentials(s3: S3Server, environment: dict[str, str]) -> None:
    Store("s3://public/data", s3.options).write_json("manifest.json", {"schema_version": 0})
    nobody = {name: value for name, value in environment.items() if "KEY" not in name}
    found = run(nobody, "data", "describe", "s3://public/data", "--set", "storage_options.s3.anon=true")
    assert "has schema version 0" in found.stderr
    store = Store("s3://public/data", {"s3": {"anon": True, "endpoint_url": s3.endpoint}})
    fs, root = store.arrow()
    assert fs.open_input_file(f"{root}/manifest.json").read() == store.read_bytes("manifest.json")
    with pytest.raises(StoreError):
        Store(f"s3://{BUCKET}/mini", {"s3": {"anon": True, "endpoint_url": s3.endpoint}}).write_bytes("x", b"x")


def test_a_profile_of_the_aws_files_is_used(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(f"s3://{BUCKET}/profile", s3.options).write_bytes("x", b"1")
    (tmp_path / "credentials").write_text(
        f"[lab]\naws_access_key_id = {s3.environment['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {s3.environment['AWS_SECRET_ACCESS_KEY']}\n"
    )
    (tmp_path / "config").write_text(f"[profile lab]\nendpoint_url = {s3.endpoint}\nregion = us-east-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    store = Store(f"s3://{BUCKET}/profile", {"s3": {"profile": "lab"}})
    assert store.read_bytes("x") == b"1"
    fs, root = store.arrow()
    assert fs.open_input_file(f"{root}/x").read() == b"1"
