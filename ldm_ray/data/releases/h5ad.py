"""Reads an h5ad or zarr store: PRnet's `Lincs_L1000.h5ad`, scPerturb, sci-Plex, Tahoe; one row per well, log2 in X."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata.io import read_elem, sparse_dataset

from ldm_ray.data.releases.columns import ENSEMBL, GENE_ID, LANDMARK, PROFILE, SYMBOL, Table
from ldm_ray.data.releases.gctx import row_blocks
from ldm_ray.data.releases.genes import (
    ENSEMBL_ID,
    N_LANDMARKS,
    PROBE_ID,
    are_landmarks,
    match_landmarks,
    only_count,
    plain_gene,
    read_gene_info,
)
from ldm_ray.data.releases.release import WELL_COLUMNS, Genes, Release, ReleaseOptions
from ldm_ray.data.releases.scale import LOG2_WANTED, scale_problem
from ldm_ray.data.releases.text_table import read_text_table
from ldm_ray.data.releases.well_table import read_structures, read_wells
from ldm_ray.errors import DataError, LdmRayError, NonFiniteError, StoreError
from ldm_ray.storage.signature import HDF5, LONGEST, what_it_is
from ldm_ray.storage.source import AnyFile, SourceFile, source_file

BLOCK_MB = 64
UNREADABLE = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError)
"""What anndata raises about a file that is not as it should be."""


@dataclass(frozen=True)
class H5adReader:
    """Reads rows of X or of a layer, dense or sparse, in blocks."""

    source: SourceFile
    key: str = "X"

    def blocks(self, rows: np.ndarray, genes: np.ndarray, block_mb: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `ProfileReader`."""
        with opened(self.source) as file:
            x = _matrix(file, self.key)
            for first, last in row_blocks(x, rows, block_mb):
                wanted = rows[first:last]
                slab = x[int(wanted[0]) : int(wanted[-1]) + 1]
                dense = slab if isinstance(slab, np.ndarray) else slab.toarray()
                values = dense[wanted - wanted[0]][:, genes].astype(np.float32, copy=False)
                if not np.isfinite(values).all():
                    raise NonFiniteError(f"{self.source}: {self.key} holds NaN or infinite values")
                yield np.arange(first, last), values

    def without_ids(self) -> "H5adReader":
        """See `ProfileReader`."""
        return self


@contextmanager
def opened(source: SourceFile) -> Iterator[Any]:
    """Open an h5ad or a zarr store.

    Raises:
        StoreError: If it is missing, truncated or damaged.
    """
    if source.is_folder():
        yield source.zarr()
    else:
        with source.hdf5() as file:
            yield file


def _matrix(file: Any, key: str) -> Any:
    found = file[key]
    return found if hasattr(found, "dtype") and hasattr(found, "shape") else sparse_dataset(found)


def read_h5ad(
    file: AnyFile,
    gene_info: AnyFile | None = None,
    pert_info: AnyFile | None = None,
    options: ReleaseOptions | None = None,
) -> Release:
    """Open an h5ad or a zarr store; the matrix is not read yet.

    Args:
        file: The file or folder.
        gene_info: A gene table: picks the landmarks, and gives the Entrez ids if `var` has none.
        pert_info: A table of compounds with SMILES, if `obs` has none.
        options: What the file does not say.

    Raises:
        DataError: If it is not a release of L1000 wells; names all that is missing at once.
        StoreError: If it is missing or damaged.
    """
    options, path = options or ReleaseOptions(), source_file(file)
    key = f"layers/{options.layer}" if options.layer else "X"
    obs, var = _tables(path, key)
    names = _gene_names(var)
    if gene_info is not None:
        genes, note = match_landmarks(
            names, read_gene_info(gene_info), str(path), allow_missing=options.allow_missing_genes
        )
    else:
        genes, note = _own_genes(Table(var, f"{path} (var)"), names, allow_missing=options.allow_missing_genes)
    structures = None if pert_info is None else read_structures([read_text_table(pert_info)])
    table = Table(obs.reset_index(drop=True), f"{path} (obs)")  # names may repeat, numbers of rows do not
    ids = _profile_ids(obs.index, table)
    reader = H5adReader(path, key)
    try:
        read = read_wells(table, ids, structures, options)
    except DataError as error:
        # Whoever adds the missing columns should not learn only then that the values are of another kind.
        what = scale_problem(reader, np.arange(len(obs)), genes.columns)
        raise DataError(f"{error}. And {LOG2_WANTED}; {what}" if what else str(error)) from None
    wells = read.wells.assign(row=read.wells.index)
    own, n_dropped, n_renamed = _own_ids(wells, reader, genes)
    counts = {"wells_in_table": len(obs), "duplicate_instance_ids": n_dropped, "wells_without_profile": 0}
    if read.failed is not None:
        counts["wells_that_failed_qc"] = len(read.failed)
    notes = [note, *(structures.notes if structures else ()), *read.notes]
    if n_renamed:
        notes.append(f"{n_renamed:,} wells have the obs name of a different well: -2, -3, ... is added to theirs")
    files = [path, *(source_file(table) for table in (gene_info, pert_info) if table is not None)]
    return Release(own[list(WELL_COLUMNS)].reset_index(drop=True), genes, reader, tuple(files), counts, tuple(notes))


def _tables(path: SourceFile, key: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read obs and var, and check the shape of the matrix."""
    if not path.is_folder():
        if not path.exists():
            raise StoreError(f"h5ad file {path} does not exist")
        if (head := path.head(LONGEST))[: len(HDF5)] != HDF5:
            raise DataError(f"{path} is not a readable h5ad: it must be HDF5; got {what_it_is(head)}")
    try:
        with opened(path) as file:
            missing = [name for name in ("obs", "var", key) if name not in file]
            if missing:
                layers = ", ".join(file["layers"]) if "layers" in file else ""
                there = f"; its layers are {layers} (--layer)" if layers else ""
                raise DataError(f"{path} is not a readable h5ad: it holds no {missing[0]}{there}")
            if any(file[name].attrs.get("encoding-type") != "dataframe" for name in ("obs", "var")):
                raise DataError(
                    f"{path}: obs and var must be tables as anndata 0.7 and later write them; read it with"
                    " anndata.read_h5ad, and write it again"
                )
            obs, var = read_elem(file["obs"]), read_elem(file["var"])
            shape = tuple(int(size) for size in _matrix(file, key).shape)
    except LdmRayError:
        raise
    except UNREADABLE as error:
        raise DataError(f"{path} is not a readable h5ad: {' '.join(str(error).split())[:200]}") from None
    if shape != (len(obs), len(var)):
        raise DataError(f"{path}: {key} must be {(len(obs), len(var))} as obs and var say; got {shape}")
    if not len(obs):
        raise DataError(f"{path} holds no well: its obs has no row")
    return obs, var


def _gene_names(var: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return everything that a file calls its genes; columns first, since they say what they hold."""
    table = Table(var, "var")
    columns = [name for names in (SYMBOL, GENE_ID, ENSEMBL) for name in names if table.has((name,))]
    names = {f"var[{name!r}]": table.text((name,)).to_numpy() for name in columns}
    return names | {"var index": var.index.astype(str).to_numpy()}


def _own_genes(table: Table, names: dict[str, np.ndarray], *, allow_missing: bool) -> tuple[Genes, str]:
    """Take the genes of a file that comes without a gene table, in its order."""
    kind = {label: _kind_of_names(texts) for label, texts in names.items()}
    symbols = next((names[label] for label, what in kind.items() if what == "symbols"), None)
    if symbols is None:
        known = ", ".join(f"{label} has {kind[label]} ({', '.join(texts[:2])}, ...)" for label, texts in names.items())
        raise DataError(
            f"{table.name} must have a symbol for each gene; {known}: give --gene-info, or add a column gene_symbol"
        )
    entrez = next((label for label, what in kind.items() if what == "Entrez ids"), None)
    ids, note = np.zeros(len(symbols), dtype=np.int64), "no Entrez ids: give --gene-info to add them"
    if entrez is not None:
        ids = np.array([int(plain_gene(text)) for text in names[entrez]], dtype=np.int64)
        note = f"Entrez ids from {entrez}"
    columns = np.arange(len(symbols))
    if table.has(LANDMARK):
        columns = columns[are_landmarks(table).to_numpy()]
    if len(columns) != N_LANDMARKS and not (allow_missing and 0 < len(columns) < N_LANDMARKS):
        more = (
            "--gene-info picks the landmarks" if len(columns) > N_LANDMARKS else "--allow-missing-genes accepts fewer"
        )
        raise DataError(f"{table.name} must hold {N_LANDMARKS} landmark genes; got {len(columns):,}; {more}")
    chosen = pd.Series(symbols[columns])
    if chosen.duplicated().any():
        raise DataError(f"{table.name} holds the gene {chosen[chosen.duplicated()].iloc[0]!r} twice")
    return Genes(symbols[columns].astype(str), ids[columns], columns), note


def _kind_of_names(texts: np.ndarray) -> str:
    """Say what names are: symbols, ids of some kind, places; or empty ones, if any is."""
    if only_count(texts):
        return "places"
    plain = pd.Series(texts, dtype=object).map(plain_gene)
    if (plain == "").any():
        return "empty names"
    if plain.str.fullmatch(r"\d+").all():
        return "Entrez ids"
    ids = {"Ensembl ids": ENSEMBL_ID, "probe ids": PROBE_ID}
    return next((kind for kind, form in ids.items() if plain.str.fullmatch(form).mean() > 0.5), "symbols")


def _profile_ids(index: pd.Index, table: Table) -> pd.Series:
    """Return the obs names; or, where they are not unique, a column of ids that is."""
    names = pd.Series(index.astype(str).str.strip())
    column = table.text(PROFILE)
    return column if not names.is_unique and (column != "").all() and column.is_unique else names


def _own_ids(wells: pd.DataFrame, reader: H5adReader, genes: Genes) -> tuple[pd.DataFrame, int, int]:
    """Drop rows that repeat a well with its values, and name different wells differently.

    Returns:
        The wells, the number dropped, and the number renamed.
    """
    twice = wells[wells["profile_id"].duplicated(keep=False)]
    if twice.empty:
        return wells, 0, 0
    digest: dict[int, str] = {}
    rows = twice["row"].to_numpy()
    for positions, values in reader.blocks(rows, genes.columns, BLOCK_MB):
        digest |= {
            int(row): hashlib.sha256(x.tobytes()).hexdigest() for row, x in zip(rows[positions], values, strict=True)
        }
    content = wells.drop(columns="row").assign(values=wells["row"].map(digest))
    kept = wells[~content.duplicated()]
    turn = kept.groupby("profile_id").cumcount() + 1
    taken = set(kept["profile_id"])
    names = [
        name if number == 1 else _free(name, number, taken)
        for name, number in zip(kept["profile_id"], turn, strict=True)
    ]
    return kept.assign(profile_id=names), len(wells) - len(kept), int((turn > 1).sum())


def _free(name: str, number: int, taken: set[str]) -> str:
    """Return the first name-number that no other well has."""
    while f"{name}-{number}" in taken:
        number += 1
    taken.add(f"{name}-{number}")
    return f"{name}-{number}"
