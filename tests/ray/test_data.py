"""Ray Data pipelines on a real local cluster."""

import numpy as np
import pytest
import torch

from ldm_ray.chem.embedding import build_encoder, load_embeddings
from ldm_ray.data.store import matrix
from ldm_ray.errors import DataError
from ldm_ray.keys import keys_of
from ldm_ray.ray_data import (
    PROFILES,
    LaneDataConfig,
    collect_rows,
    embed_compounds,
    read_profiles,
    sorted_keys,
)
from tests.conftest import World, small_config


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("world_size", [1, 2])
def test_workers_together_hold_every_well_once(world: World, world_size: int) -> None:
    """Ids, values and tables survive the way through Ray Data."""
    dataset = world.dataset
    keys = {split: sorted_keys(dataset, split) for split in ("train", "valid")}
    shards = LaneDataConfig(keys, 8).configure({PROFILES: read_profiles(dataset)}, world_size, None, None)
    workers = [
        collect_rows(shard[PROFILES], keys, 8, rank, world_size, torch.device("cpu"))
        for rank, shard in enumerate(shards)
    ]
    for split in ("train", "valid"):
        parts = [worker[split] for worker in workers]
        held = torch.cat([rows.keys for rows in parts]).numpy()
        assert np.sort(held).tolist() == keys[split].tolist()
        table = dataset.profiles(["profile_id", "expression", "basal_id"], split)
        order = np.argsort(keys_of(table["profile_id"].to_pylist()))
        ours = np.argsort(held)
        np.testing.assert_array_equal(
            torch.cat([rows.expression for rows in parts]).numpy()[ours], matrix(table["expression"])[order]
        )
        np.testing.assert_array_equal(
            torch.cat([rows.basal for rows in parts]).numpy()[ours], table["basal_id"].to_numpy()[order]
        )


@pytest.mark.usefixtures("cluster")
def test_embeddings_through_ray_equal_the_encoder(world: World) -> None:
    encoder = build_encoder(world.config.encoder)
    table = embed_compounds(world.dataset, encoder, world.config.encoder)
    expected = encoder.encode(world.dataset.parent_smiles.tolist())
    np.testing.assert_array_equal(matrix(table["embedding"]), expected)
    assert expected.sum(axis=1).min() > 5


def test_a_missing_embedding_table_names_the_command(world: World) -> None:
    other = build_encoder(small_config("encoder.n_bits=128").encoder)
    with pytest.raises(DataError, match="has no ecfp4-128 embeddings; run `ldm-ray embed --data"):
        load_embeddings(world.dataset.store, other)


def test_an_empty_split_is_said(world: World) -> None:
    with pytest.raises(DataError, match="no profile in split 'nowhere'"):
        sorted_keys(world.dataset, "nowhere")
