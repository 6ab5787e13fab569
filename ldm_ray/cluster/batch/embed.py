"""Encodes the compounds that a dataset's embedding table lacks, in a pool of Ray actors."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import ray
import ray.data

from ldm_ray.chem.embedding import (
    CompoundEncoder,
    build_encoder,
    encode_table,
    read_embeddings,
    save_embeddings,
    table_name,
)
from ldm_ray.cluster.connect import connect
from ldm_ray.cluster.pool import map_in_pool, placed_pool
from ldm_ray.config import Config
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.errors import DataError
from ldm_ray.settings import EncoderSettings
from ldm_ray.storage.store import matrix

ROWS_PER_CALL = 256
ROWS_PER_SAVE = 8192
CPUS_PER_ACTOR = 0.5
PRETRAINED = ("molformer", "hub")


def embed(
    dataset: PairedDataset,
    config: Config,
    *,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Encode the compounds that the dataset's embedding table lacks; return the table's URL.

    The table is saved every 8,192 compounds, so that an interrupted run resumes there.

    Args:
        dataset: Dataset whose parent structures are encoded.
        config: Settings `encoder` and `ray`.
        overwrite: Encode all compounds again.
        on_progress: Called with the number of compounds done and the total.

    Raises:
        DataError: If the table was made by another revision of the encoder and `overwrite` is false.
        SettingsError: If a pretrained encoder cannot be loaded.
    """
    encoder = build_encoder(config.encoder)
    if overwrite:
        dataset.store.remove(table_name(encoder))
    table = read_embeddings(dataset.store, encoder)
    known = table.position()
    missing = [text for text in dataset.parent_smiles.tolist() if text not in known]
    smiles, vectors = table.smiles.tolist(), [table.vectors]
    total = len(missing)
    if not total:
        on_progress(len(smiles), len(smiles))
    else:
        connect(config.ray)
    for start in range(0, total, ROWS_PER_SAVE):
        part = missing[start : start + ROWS_PER_SAVE]
        vectors.append(encode_on_ray(part, encoder, config))
        smiles += part
        save_embeddings(dataset.store, encoder, smiles, np.concatenate(vectors))
        on_progress(len(smiles) - len(known), total)
    return dataset.store.path(table_name(encoder))


def encode_on_ray(smiles: list[str], encoder: CompoundEncoder, config: Config) -> np.ndarray:
    """Encode molecules in parallel, one actor per GPU or CPU; return (len(smiles), dim), float32, in their order.

    Raises:
        DataError: If embeddings are missing.
    """
    starts = range(0, len(smiles), ROWS_PER_CALL)
    actors = placed_pool(config.ray, len(starts), CPUS_PER_ACTOR, can_use_gpus=config.encoder.kind in PRETRAINED)
    place = {text: i for i, text in enumerate(smiles)}
    vectors, seen = np.empty((len(smiles), encoder.dim), dtype=np.float32), set()
    for table in map_in_pool(_EncodeCompounds, (config.encoder, ray.put(smiles), ROWS_PER_CALL), starts, actors):
        rows = [place[text] for text in table["smiles"].to_pylist()]
        vectors[rows] = matrix(table["embedding"])
        seen.update(rows)
    if len(seen) != len(smiles):
        raise DataError(f"{len(smiles)} compounds went into {encoder.name}; {len(seen)} came out")
    return vectors


class _EncodeCompounds:
    """Encodes a few compounds per call; loads a pretrained encoder once."""

    def __init__(self, settings: EncoderSettings, smiles: "ray.ObjectRef[list[str]]", at_once: int) -> None:
        self._encoder, self._at_once = build_encoder(settings), at_once
        self._smiles: list[str] = ray.get(smiles)

    def work(self, item: int) -> pa.Table:
        """Encode `ROWS_PER_CALL` compounds, the first of which is `item`."""
        some = self._smiles[item : item + self._at_once]
        return encode_table(pa.table({"smiles": some}), self._encoder)
