"""Opens an existing paired dataset: its manifest and tables."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ldm_ray.data.manifest import Manifest, read_manifest
from ldm_ray.errors import DataError
from ldm_ray.layout import BASAL, CELLS, COMPOUNDS, MANIFEST, PROFILES
from ldm_ray.schema import SCHEMA_VERSION
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.store import Store, matrix


@dataclass(frozen=True)
class PairedDataset:
    """The tables under one root; profiles are read on demand."""

    store: Store
    manifest: Manifest

    @property
    def url(self) -> str:
        """URL of the dataset's folder."""
        return self.store.url

    @property
    def gene_symbols(self) -> list[str]:
        """Symbols in the order of every expression vector."""
        return [gene["symbol"] for gene in self.manifest["genes"]]

    @property
    def n_genes(self) -> int:
        """Length of an expression vector."""
        return len(self.manifest["genes"])

    @cached_property
    def compounds(self) -> pa.Table:
        """The compound table; row i is compound i."""
        return self.store.read_table(COMPOUNDS)

    @cached_property
    def cells(self) -> list[str]:
        """Names of the cell lines; position i is `cell_id` i."""
        return [str(name) for name in self.store.read_table(CELLS)["name"].to_pylist()]

    @cached_property
    def basal(self) -> pa.Table:
        """The control profiles; row i is `basal_id` i."""
        return self.store.read_table(BASAL)

    @cached_property
    def basal_expression(self) -> np.ndarray:
        """Control profiles, shape (n_basal, n_genes), float32, log2; row i is `basal_id` i."""
        return matrix(self.basal["expression"])

    @cached_property
    def basal_variance(self) -> np.ndarray:
        """Variance of each control profile's wells, shape (n_basal, n_genes), float32; NaN where it is not known."""
        return matrix(self.basal["variance"])

    @cached_property
    def parent_smiles(self) -> np.ndarray:
        """Parent structure of each compound, shape (n_compounds,)."""
        return np.array(self.compounds["parent_smiles"].to_pylist(), dtype=object)

    @cached_property
    def groups(self) -> np.ndarray:
        """Group of each compound, (n_compounds,): what a model may not tell apart, so what splits keep together."""
        return np.array(self.compounds["group"].to_pylist(), dtype=object)

    @cached_property
    def group_ids(self) -> np.ndarray:
        """The `compound_id` of the first compound of each compound's group, (n_compounds,)."""
        _, first, number = np.unique(self.groups.astype(str), return_index=True, return_inverse=True)
        return np.asarray(first[number], dtype=np.int32)

    @property
    def profile_paths(self) -> list[str]:
        """Full paths of the profile files on the file system of `store.arrow()`."""
        _, root = self.store.arrow()
        return [f"{root}/{entry['path']}" for entry in self.manifest["files"]]

    def profiles(self, columns: list[str], split: str | None = None, split_column: str = "split") -> pa.Table:
        """Read treated wells into memory, in the dataset's order.

        Args:
            columns: Columns of `schema.profiles_schema`.
            split: Keep only wells with this value in `split_column`.
            split_column: `split`, `cell_split` or `plate_split`.
        """
        keep = None if split is None else pc.field(split_column) == split
        return self.store.read_tables([entry["path"] for entry in self.manifest["files"]], columns, keep)


def open_dataset(url: str, storage_options: StorageOptions | None = None) -> PairedDataset:
    """Open a paired dataset at any URL.

    Raises:
        DataError: If it does not exist, is incomplete, or has another schema version.
    """
    store = Store(url, storage_options or {})
    if not store.exists(MANIFEST):
        hint = "its prepare did not finish" if store.exists(PROFILES) else "run `ldm-ray prepare` first"
        raise DataError(f"{url} is not a paired dataset (no {MANIFEST}): {hint}")
    manifest = read_manifest(store)
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{url} has schema version {manifest.get('schema_version')}; this version of ldm-ray reads"
            f" {SCHEMA_VERSION}: run `ldm-ray data migrate {url}`"
        )
    return PairedDataset(store, manifest)
