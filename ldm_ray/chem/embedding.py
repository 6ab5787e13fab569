"""Compound encoders behind one interface, and the embedding table of a dataset."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from ldm_ray.chem.fingerprint import MorganEncoder
from ldm_ray.config import EncoderSettings
from ldm_ray.data.store import Store, list_column, matrix
from ldm_ray.errors import DataError
from ldm_ray.schema import EMBEDDINGS, embeddings_schema


class CompoundEncoder(Protocol):
    """Turns parent SMILES into vectors; deterministic, one row per molecule whatever its neighbours."""

    @property
    def name(self) -> str:
        """Name of the encoder, also the name of its embedding table."""

    @property
    def revision(self) -> str:
        """What else the vectors depend on (library version, checkpoint revision)."""

    @property
    def dim(self) -> int:
        """Width of a vector."""

    def encode(self, smiles: Sequence[str]) -> np.ndarray:
        """Return the vectors, shape (len(smiles), dim), float32."""


def build_encoder(settings: EncoderSettings) -> CompoundEncoder:
    """Build the compound encoder that the settings name."""
    return MorganEncoder(settings.kind, settings.radius, settings.n_bits)


@dataclass(frozen=True)
class EmbeddingTable:
    """Embeddings of a dataset's compounds: `vectors[i]` belongs to `compound_ids[i]`."""

    encoder: str
    revision: str
    compound_ids: np.ndarray
    vectors: np.ndarray


def table_name(encoder: CompoundEncoder) -> str:
    """Return where a dataset keeps this encoder's table."""
    return f"{EMBEDDINGS}/{encoder.name}.parquet"


def save_embeddings(store: Store, encoder: CompoundEncoder, compound_ids: np.ndarray, vectors: np.ndarray) -> None:
    """Write an embedding table, sorted by compound."""
    order = np.argsort(compound_ids)
    schema = embeddings_schema(encoder.dim, {"encoder": encoder.name, "revision": encoder.revision})
    ids = pa.array(compound_ids[order].astype(np.int32))
    store.write_table(table_name(encoder), pa.Table.from_arrays([ids, list_column(vectors[order])], schema=schema))


def load_embeddings(store: Store, encoder: CompoundEncoder) -> EmbeddingTable:
    """Read a dataset's embedding table.

    Raises:
        DataError: If it is missing, or was made by another revision of the encoder.
    """
    if not store.exists(table_name(encoder)):
        raise DataError(f"{store.url} has no {encoder.name} embeddings; run `ldm-ray embed --data {store.url}`")
    table = store.read_table(table_name(encoder))
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if metadata.get("revision") != encoder.revision:
        raise DataError(
            f"embeddings of {store.url} must come from {encoder.name} revision {encoder.revision}; "
            f"got {metadata.get('revision')}; run `ldm-ray embed --data {store.url} --overwrite`"
        )
    return EmbeddingTable(encoder.name, encoder.revision, table["compound_id"].to_numpy(), matrix(table["embedding"]))


def encode_table(table: pa.Table, settings: EncoderSettings) -> pa.Table:
    """Encode a block of the compound table; columns `compound_id` and `embedding`."""
    vectors = build_encoder(settings).encode(table["parent_smiles"].to_pylist())
    return pa.table({"compound_id": table["compound_id"], "embedding": list_column(vectors)})
