"""Compound encoders behind one interface, and a dataset's embedding table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from ldm_ray.chem.fingerprint import MorganEncoder
from ldm_ray.errors import DataError
from ldm_ray.layout import EMBEDDINGS
from ldm_ray.schema import embeddings_schema
from ldm_ray.settings import EncoderSettings
from ldm_ray.storage.store import Store, list_column, matrix


class CompoundEncoder(Protocol):
    """Turns parent SMILES into vectors; deterministic, and independent of the other molecules in a batch."""

    @property
    def name(self) -> str:
        """Name of the encoder and of its embedding table."""

    @property
    def revision(self) -> str:
        """Anything else the vectors depend on (library version, checkpoint revision)."""

    @property
    def dim(self) -> int:
        """Width of a vector."""

    def encode(self, smiles: Sequence[str]) -> np.ndarray:
        """Return the vectors, shape (len(smiles), dim), float32."""


def build_encoder(settings: EncoderSettings) -> CompoundEncoder:
    """Build the compound encoder that the settings name; pretrained weights are read on first use."""
    if settings.kind == "molformer":
        from ldm_ray.chem.molformer_encoder import MolformerEncoder

        return MolformerEncoder(settings)
    if settings.kind == "hub":
        from ldm_ray.chem.hub import HubEncoder

        return HubEncoder(settings)
    return MorganEncoder(settings.kind, settings.radius, settings.n_bits)


@dataclass(frozen=True)
class EmbeddingTable:
    """Embeddings by parent SMILES: `vectors[i]` belongs to `smiles[i]`; shape (n, dim), float32."""

    smiles: np.ndarray
    vectors: np.ndarray

    def position(self) -> dict[str, int]:
        """Return the row of each molecule."""
        return {str(text): i for i, text in enumerate(self.smiles)}


def table_name(encoder: CompoundEncoder) -> str:
    """Return the path of this encoder's table in a dataset."""
    return f"{EMBEDDINGS}/{encoder.name}.parquet"


def save_embeddings(store: Store, encoder: CompoundEncoder, smiles: Sequence[str], vectors: np.ndarray) -> None:
    """Write an embedding table keyed by SMILES, with encoder and revision as metadata."""
    schema = embeddings_schema(encoder.dim, {"encoder": encoder.name, "revision": encoder.revision})
    columns = [pa.array(list(smiles), pa.string()), list_column(vectors)]
    store.write_table(table_name(encoder), pa.Table.from_arrays(columns, schema=schema))


def read_embeddings(store: Store, encoder: CompoundEncoder) -> EmbeddingTable:
    """Read an encoder's table; empty if it does not exist.

    Raises:
        DataError: If another revision of the encoder made the table.
    """
    if not store.exists(table_name(encoder)):
        return EmbeddingTable(np.array([], dtype=object), np.zeros((0, encoder.dim), np.float32))
    table = store.read_table(table_name(encoder))
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if metadata.get("revision") != encoder.revision:
        raise DataError(
            f"embeddings of {store.url} must come from {encoder.name} revision {encoder.revision}; "
            f"got {metadata.get('revision')}; run `ldm-ray embed --data {store.url} --overwrite`"
        )
    return EmbeddingTable(np.array(table["smiles"].to_pylist(), dtype=object), matrix(table["embedding"]))


def load_embeddings(store: Store, encoder: CompoundEncoder, parent_smiles: Sequence[str]) -> np.ndarray:
    """Return the vectors of molecules, shape (len(parent_smiles), dim), float32.

    Raises:
        DataError: If one is missing, or another revision of the encoder made the table.
    """
    table = read_embeddings(store, encoder)
    place = table.position()
    missing = [text for text in parent_smiles if text not in place]
    if missing:
        what = f"lacks the {encoder.name} embeddings of {len(missing)} compounds"
        what = what if len(table.smiles) else f"has no {encoder.name} embeddings"
        raise DataError(f"{store.url} {what}; run `ldm-ray embed --data {store.url}`")
    return np.asarray(table.vectors[[place[text] for text in parent_smiles]])


def encode_table(table: pa.Table, encoder: CompoundEncoder) -> pa.Table:
    """Encode a block of molecules from the column `smiles`; returns it with the column `embedding`."""
    return pa.table({"smiles": table["smiles"], "embedding": list_column(encoder.encode(table["smiles"].to_pylist()))})
