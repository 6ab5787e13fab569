"""Bundles, tables of queries, predictions and reports in buckets."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from ldm_ray.bundle.bundle import save_bundle
from ldm_ray.cli.app import app
from ldm_ray.prediction.predictor import Predictor, Query
from ldm_ray.storage.store import Store
from tests.bundles import SMILES, random_bundle
from tests.conftest import World
from tests.s3_server import BUCKET, S3Server


@pytest.fixture
def bucket(s3: S3Server, world: World) -> Store:
    """A bucket with a dataset and a bundle."""
    store = Store(f"s3://{BUCKET}/models", s3.options)
    for path in Path(world.dataset.url).rglob("*"):
        if path.is_file():
            store.write_bytes(f"data/{path.relative_to(world.dataset.url)}", path.read_bytes())
    bundle = random_bundle(world)
    history = [{"train_loss": 1.0, "valid_loss": 1.0, "epoch": 0.0}]
    bundle.metadata.update(history=history, vae_history=history, best_epoch=0)
    save_bundle(bundle, store.path("bundle"), s3.options)
    return store


def test_a_bundle_in_a_bucket_predicts_as_the_local_one(world: World, s3: S3Server, bucket: Store) -> None:
    remote = Predictor.from_bundle(bucket.path("bundle"), storage_options=s3.options)
    query = [Query(SMILES, 10.0, 24.0, "SIMC001")]
    np.testing.assert_array_equal(remote.predict(query).mean, Predictor(random_bundle(world)).predict(query).mean)


def test_predict_and_evaluate_from_bucket_to_bucket(
    s3: S3Server, bucket: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = pd.DataFrame({"smiles": [SMILES, "CCO"], "cell": "SIMC001", "dose_um": [1.0, 10.0], "time_h": 24.0})
    bucket.write_bytes("queries.csv", queries.to_csv(index=False).encode())
    settings = tmp_path / "settings.yaml"
    settings.write_text(json.dumps({"storage_options": s3.options, "predict": {"steps": 5, "n_samples": 2}}))
    at = bucket.path
    shared = ["--bundle", at("bundle"), "--config", str(settings)]
    app(["predict", *shared, "--conditions", at("queries.csv"), "--out", at("out.h5ad")], standalone_mode=False)
    (tmp_path / "out.h5ad").write_bytes(bucket.read_bytes("out.h5ad"))
    assert anndata.read_h5ad(tmp_path / "out.h5ad").shape == (2, 978)
    few = ["--set", "evaluate.max_profiles=120", "--set", "evaluate.n_samples=[2]"]
    few += ["--set", "evaluate.bootstrap_draws=10"]
    app(["evaluate", *shared, *few, "--data", at("data"), "--out", at("report"), "--json"], standalone_mode=False)
    rows = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["rows"]
    assert {"control", "ldm"} <= {row["model"] for row in rows}
    assert {"metrics.json", "scores.png"} <= set(bucket.names("report"))
    assert b"not-a-secret" not in bucket.read_bytes("report/settings.yaml")
