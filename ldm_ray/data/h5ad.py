"""Reads a PRnet-style h5ad (`Lincs_L1000.h5ad` and its relatives): one row per well, log2 values in X."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem, sparse_dataset

from ldm_ray.data.gctx import HDF5_SIGNATURE, row_blocks
from ldm_ray.data.l1000 import HOURS, MICROMOLAR, N_LANDMARKS, in_units, read_gene_info
from ldm_ray.data.release import WELL_COLUMNS, Genes, Release
from ldm_ray.data.source import AnyFile, SourceFile, source_file
from ldm_ray.errors import DataError, NonFiniteError, StoreError

TRUE = ("1", "1.0", "True", "true")

# The first name found in the file is used.
ALIASES = {
    "cell": ("cell_id", "cell_type", "cell_iname"),
    "dose": ("pert_dose", "dose"),
    "time": ("pert_time", "time"),
    "smiles": ("canonical_smiles", "SMILES", "smiles"),
    "source_id": ("pert_id", "condition"),
    "name": ("pert_iname", "condition", "pert_id"),
    "plate": ("rna_plate", "det_plate"),
    "well": ("rna_well", "det_well"),
}


@dataclass(frozen=True)
class H5adReader:
    """Reads rows of X, dense or sparse, in blocks."""

    source: SourceFile

    def blocks(self, rows: np.ndarray, genes: np.ndarray, block_mb: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `ProfileReader`."""
        with self.source.hdf5() as file:
            x = _matrix(file)
            for first, last in row_blocks(x, rows, block_mb):
                wanted = rows[first:last]
                slab = x[int(wanted[0]) : int(wanted[-1]) + 1]
                dense = slab if isinstance(slab, np.ndarray) else slab.toarray()
                values = dense[wanted - wanted[0]][:, genes].astype(np.float32, copy=False)
                if not np.isfinite(values).all():
                    raise NonFiniteError(f"{self.source}: X holds NaN or infinite values")
                yield np.arange(first, last), values

    def without_ids(self) -> "H5adReader":
        """See `ProfileReader`."""
        return self


def _matrix(file: h5py.File) -> Any:
    return file["X"] if isinstance(file["X"], h5py.Dataset) else sparse_dataset(file["X"])


def read_h5ad(file: AnyFile, gene_info: AnyFile | None = None, *, allow_missing_genes: bool = False) -> Release:
    """Open an h5ad; X is not read yet.

    Args:
        file: The file, with `obs` columns as in PRnet's release.
        gene_info: A gene table for the Entrez ids, if `var` has symbols only.
        allow_missing_genes: Accept fewer than 978 genes.

    Raises:
        DataError: If it is not a PRnet-style h5ad.
        StoreError: If it is missing or damaged.
    """
    path = source_file(file)
    if not path.exists():
        raise StoreError(f"h5ad file {path} does not exist")
    if path.head(8) != HDF5_SIGNATURE:
        raise DataError(f"{path} is not a readable h5ad: it does not begin as HDF5 files do")
    try:
        with path.hdf5() as opened:
            obs, var = read_elem(opened["obs"]), read_elem(opened["var"])
            shape = tuple(_matrix(opened).shape)
    except (OSError, KeyError) as error:
        raise DataError(f"{path} is not a readable h5ad: {' '.join(str(error).split())}") from None
    if shape != (len(obs), len(var)):
        raise DataError(f"{path}: X must be {(len(obs), len(var))} as obs and var say; got {shape}")
    genes, note = _genes(var, path, gene_info, allow_missing=allow_missing_genes)
    wells = _wells(obs, path)
    counts = {
        "wells_in_table": len(obs),
        "duplicate_instance_ids": int(wells["profile_id"].duplicated().sum()),
    }
    wells = wells.drop_duplicates("profile_id", ignore_index=True)[list(WELL_COLUMNS)]
    sources = (path,) if gene_info is None else (path, source_file(gene_info))
    return Release(wells, genes, H5adReader(path), sources, counts | {"wells_without_profile": 0}, (note,))


def _wells(obs: pd.DataFrame, path: SourceFile) -> pd.DataFrame:
    def column(key: str, default: str | None = None) -> pd.Series:
        name = next((name for name in ALIASES[key] if name in obs.columns), None)
        if name is None and default is None:
            raise DataError(f"{path}: obs must have a column {' or '.join(ALIASES[key])}; it has none of them")
        if name is None:
            return pd.Series(default, index=obs.index)
        return obs[name].astype(str)

    def unit(name: str, default: str) -> pd.Series:
        return obs[name].astype(str) if name in obs.columns else pd.Series(default, index=obs.index)

    if "pert_type" in obs.columns:
        kind = obs["pert_type"].astype(str).str.strip().str.casefold()
    elif "control" in obs.columns:
        kind = pd.Series(np.where(obs["control"].astype(str).isin(TRUE), "ctl_vehicle", "trt_cp"), index=obs.index)
    else:
        raise DataError(f"{path}: obs must have a column pert_type or control; it has neither")
    return pd.DataFrame(
        {
            "profile_id": obs.index.astype(str),
            "plate": column("plate").to_numpy(),
            "well": column("well", "").to_numpy(),
            "source_id": column("source_id").to_numpy(),
            "name": column("name").to_numpy(),
            "kind": kind.to_numpy(),
            "smiles": column("smiles").to_numpy(),
            "cell": column("cell").to_numpy(),
            "dose_um": in_units(column("dose"), unit("pert_dose_unit", "um"), MICROMOLAR).to_numpy(),
            "time_h": in_units(column("time"), unit("pert_time_unit", "h"), HOURS).to_numpy(),
            "row": np.arange(len(obs)),
        }
    )


def _entrez(ids: pd.Series, path: SourceFile) -> np.ndarray:
    number = pd.to_numeric(ids, errors="coerce")
    if number.isna().any():
        raise DataError(f"{path}: var[{ids.name!r}] must hold Entrez ids; got {ids[number.isna()].iloc[0]!r}")
    return np.asarray(number, dtype=np.int64)


def _genes(var: pd.DataFrame, path: SourceFile, gene_info: AnyFile | None, *, allow_missing: bool) -> tuple[Genes, str]:
    """Return the genes in the file's order, and a note on the source of their Entrez ids."""
    symbols = var["pr_gene_symbol"].astype(str) if "pr_gene_symbol" in var else pd.Series(var.index.astype(str))
    ids = next((name for name in ("pr_gene_id", "entrez_id", "gene_id") if name in var), None)
    if ids is not None:
        entrez, note = _entrez(var[ids], path), f"Entrez ids from var[{ids!r}]"
    elif gene_info is not None:
        table = read_gene_info(gene_info).drop_duplicates("pr_gene_symbol").set_index("pr_gene_symbol")
        entrez = symbols.map(table["pr_gene_id"]).fillna("0").astype(np.int64).to_numpy()
        unknown = symbols.to_numpy()[entrez == 0]
        if len(unknown):
            raise DataError(f"{path}: gene {unknown[0]!r} ({len(unknown)} in all) is not in {gene_info}")
        note = f"Entrez ids looked up by symbol in {source_file(gene_info).name}"
    else:
        entrez, note = np.zeros(len(var), dtype=np.int64), "no Entrez ids: give --gene-info to add them"
    columns = np.arange(len(var))
    if "pr_is_lm" in var:
        columns = columns[var["pr_is_lm"].astype(str).isin(TRUE).to_numpy()]
    if len(columns) != N_LANDMARKS and not (allow_missing and 0 < len(columns) < N_LANDMARKS):
        raise DataError(
            f"{path} must hold {N_LANDMARKS} landmark genes; got {len(columns)}; --allow-missing-genes accepts fewer"
        )
    return Genes(symbols.to_numpy(dtype=str)[columns], entrez[columns], columns), note
