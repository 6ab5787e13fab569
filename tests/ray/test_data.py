"""Ray Data pipelines on a real local cluster, from a real S3 server."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data
import torch

from ldm_ray.chem.embedding import build_encoder, load_embeddings, save_embeddings
from ldm_ray.cluster.batch.embed import embed
from ldm_ray.cluster.pool import ActorPool, map_in_pool
from ldm_ray.cluster.train.ingest import open_source
from ldm_ray.cluster.train.stream import sorted_keys
from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.prepare import prepare
from ldm_ray.data.releases.l1000 import read_l1000
from ldm_ray.data.slices import profile_files
from ldm_ray.errors import DataError, StoreError
from ldm_ray.storage.store import matrix, parquet_bytes
from ldm_ray.training.rows import expression_of
from ldm_ray.training.source import WellSource
from tests.conftest import World, small_config
from tests.molformer_checkpoint import SMALL, write_checkpoint
from tests.s3_server import BUCKET, S3Server


@pytest.fixture(scope="session")
def on_s3(world: World, s3: S3Server) -> PairedDataset:
    """The small dataset on a real S3 server, in small files."""
    config = small_config("prepare.rows_per_file=100").model_copy(update={"storage_options": s3.options})
    files = world.files
    release = read_l1000(files.gctx, files.inst_info, files.pert_info, files.gene_info)
    prepare(release, f"s3://{BUCKET}/rows/data", config)
    return open_dataset(f"s3://{BUCKET}/rows/data", s3.options)


def sources(dataset: PairedDataset, mode: str, world_size: int, batch: int) -> list[WellSource]:
    config = small_config(f"ingest.mode={mode}", "ray.lanes=6", "ingest.shuffle_window_rows=100")
    settings = config.train_vae.model_copy(update={"global_batch_size": batch})
    keys = {split: sorted_keys(dataset, split) for split in ("train", "valid")}
    files = profile_files(dataset, config.ingest)
    where = torch.device("cpu")
    return [open_source(files, keys, config, settings, rank, world_size, where) for rank in range(world_size)]


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("mode", ["stream", "resident"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_an_epoch_from_s3_has_every_well_once(on_s3: PairedDataset, world_size: int, mode: str) -> None:
    """Three epochs: each training well at most once, all but the counted rest of the last batch, values intact."""
    table = on_s3.profiles(["profile_key", "expression", "basal_id", "dose_um"], "train")
    expected = dict(zip(table["profile_key"].to_pylist(), range(len(table)), strict=True))
    workers = sources(on_s3, mode, world_size, 48)
    orders = []
    for epoch in range(3):
        parts = [list(worker.batches(epoch)) for worker in workers]
        assert {len(part) for part in parts} == {workers[0].plan.steps}
        assert {len(batch) for part in parts for batch in part} == {48 // world_size}
        keys = [key for part in parts for batch in part for key in batch.keys.tolist()]
        assert len(keys) == len(set(keys)) == len(expected) - workers[0].plan.dropped
        assert set(keys) <= set(expected)
        assert workers[0].plan.dropped < 48 + 6
        orders.append(keys)
        batch = parts[-1][-1]
        rows = [expected[key] for key in batch.keys.tolist()]
        np.testing.assert_array_equal(expression_of(batch).numpy(), matrix(table["expression"].take(rows)))
        np.testing.assert_array_equal(batch.basal.numpy(), table["basal_id"].take(rows).to_numpy())
        np.testing.assert_array_equal(batch.dose_um.numpy(), table["dose_um"].take(rows).to_numpy())
    assert orders[0] != orders[1] != orders[2]
    for split in ("train", "valid"):
        swept = [key for worker in workers for rows in worker.sweep(split) for key in rows.keys.tolist()]
        assert sorted(swept) == sorted_keys(on_s3, split).tolist()
        assert [worker.count(split) for worker in workers] == [sum(map(len, worker.sweep(split))) for worker in workers]


@pytest.mark.usefixtures("cluster")
def test_a_stream_goes_on_midway_and_is_the_same_again(on_s3: PairedDataset) -> None:
    worker = sources(on_s3, "stream", 2, 32)[1]
    whole = [batch.keys for batch in worker.batches(4)]
    for first_step in (0, 1, 6, 7, len(whole) - 1):
        rest = [batch.keys for batch in worker.batches(4, first_step)]
        assert len(rest) == len(whole) - first_step
        assert all(torch.equal(a, b) for a, b in zip(whole[first_step:], rest, strict=True))


@pytest.mark.usefixtures("cluster")
def test_a_file_that_is_not_what_the_manifest_says_is_an_error(world: World, tmp_path: Path) -> None:
    """Rows missing from a store are an error, not a shorter epoch."""
    shutil.copytree(world.dataset.url, tmp_path / "data")
    dataset = open_dataset(str(tmp_path / "data"))
    path = next((tmp_path / "data" / "profiles").iterdir())
    file = pq.ParquetFile(path)
    groups = [file.read_row_group(i) for i in range(file.num_row_groups)]
    groups[0] = groups[0].slice(1)
    path.write_bytes(parquet_bytes(groups))
    with pytest.raises(DataError, match="row group 0 of .* must hold .* rows; got"):
        list(sources(dataset, "stream", 1, 48)[0].batches(0))
    with pytest.raises(DataError, match="row group 0 of .* must hold .* rows; got"):
        sources(dataset, "resident", 1, 48)
    (stream,) = sources(dataset, "stream", 1, 48)
    path.write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match=r"part-00000.parquet is damaged"):
        list(stream.batches(0))
    path.unlink()
    with pytest.raises(StoreError, match=r"part-00000.parquet does not exist"):
        list(stream.batches(0))


@pytest.mark.usefixtures("cluster")
def test_only_missing_embeddings_are_computed(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table with half of the compounds, one of them marked: the rest is added, the mark stays.

    More calls than actors: an operator that cut the blocks once waited for a CPU that the pool held.
    """
    monkeypatch.setattr("ldm_ray.cluster.batch.embed.ROWS_PER_CALL", 7)
    monkeypatch.setattr("ldm_ray.cluster.batch.embed.ROWS_PER_SAVE", 20)
    shutil.copytree(world.dataset.url, tmp_path / "data")
    dataset = open_dataset(str(tmp_path / "data"))
    config = small_config("encoder.kind=fcfp")
    encoder = build_encoder(config.encoder)
    smiles = dataset.parent_smiles.tolist()
    expected = encoder.encode(smiles)
    half = expected[::2].copy()
    half[0] = 7.0
    save_embeddings(dataset.store, encoder, smiles[::2], half)
    with pytest.raises(DataError, match="lacks the fcfp4-256 embeddings of 30 compounds; run `ldm-ray embed"):
        load_embeddings(dataset.store, encoder, smiles)
    embed(dataset, config)
    found = load_embeddings(dataset.store, encoder, smiles)
    np.testing.assert_array_equal(found[1:], expected[1:])
    assert (found[0] == 7.0).all()
    embed(dataset, config, overwrite=True)
    np.testing.assert_array_equal(load_embeddings(dataset.store, encoder, smiles), expected)
    assert expected.sum(axis=1).min() > 5


@pytest.mark.usefixtures("cluster")
def test_molformer_runs_in_the_actor_pool(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.dataset.url, tmp_path / "data")
    dataset = open_dataset(str(tmp_path / "data"))
    folder = write_checkpoint(tmp_path / "tiny", SMALL, seed=3)
    config = small_config("encoder.kind=molformer", f"encoder.checkpoint={folder}", "ray.actors=1")
    embed(dataset, config)
    encoder = build_encoder(config.encoder)
    smiles = dataset.parent_smiles.tolist()
    np.testing.assert_allclose(load_embeddings(dataset.store, encoder, smiles), encoder.encode(smiles), atol=2e-6)
    write_checkpoint(tmp_path / "other" / "tiny", SMALL, seed=4)
    other = small_config("encoder.kind=molformer", f"encoder.checkpoint={tmp_path / 'other' / 'tiny'}")
    with pytest.raises(DataError, match="must come from molformer-tiny revision sha256:.*; run `ldm-ray embed"):
        embed(dataset, other)


def test_a_missing_embedding_table_names_the_command(world: World) -> None:
    other = build_encoder(small_config("encoder.n_bits=128").encoder)
    with pytest.raises(DataError, match="has no ecfp4-128 embeddings; run `ldm-ray embed --data"):
        load_embeddings(world.dataset.store, other, world.dataset.parent_smiles.tolist())


def test_an_empty_split_is_said(world: World) -> None:
    with pytest.raises(DataError, match="no profile in split 'nowhere'"):
        sorted_keys(world.dataset, "nowhere")


@pytest.mark.usefixtures("cluster")
def test_ray_data_still_loses_the_class_of_an_error() -> None:
    """The reason why errors travel as blocks; when this fails, they may be raised in the task."""

    def fail(_: object) -> None:
        raise DataError("ours")

    with pytest.raises(Exception, match="ours") as caught:
        ray.data.range(1).map_batches(fail).materialize()
    layers = [caught.value]
    while (inner := getattr(layers[-1], "cause", None) or layers[-1].__cause__) is not None:
        layers.append(inner)
    assert not any(isinstance(layer, DataError) for layer in layers)


@pytest.mark.usefixtures("cluster")
def test_a_pool_makes_good_for_an_actor_that_dies(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Ray's own restarts would do, but print an error about the actors' arguments wherever a pool starts."""

    class Worker:
        def __init__(self, marker: Path) -> None:
            self._marker = marker

        def work(self, item: int) -> pa.Table:
            if item == 5 and not self._marker.exists():
                self._marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return pa.table({"square": [item * item]})

    found = {}
    for table in map_in_pool(Worker, (tmp_path / "killed",), range(12), ActorPool(2, 0.5, 0)):
        for item, square in zip(table["item"].to_pylist(), table["square"].to_pylist(), strict=True):
            assert item not in found
            found[item] = square
    assert found == {item: item * item for item in range(12)}
    assert (tmp_path / "killed").exists()
    assert "constructor arguments" not in capfd.readouterr().err
