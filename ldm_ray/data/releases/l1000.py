"""Reads a release of matrix and tables: GSE92742, GSE70138, CMap LINCS 2020, or several of them together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ldm_ray.data.releases.gctx import GctxReader, open_gctx
from ldm_ray.data.releases.genes import match_landmarks, read_gene_info
from ldm_ray.data.releases.join import common_genes, join_readers
from ldm_ray.data.releases.release import WELL_COLUMNS, Release, ReleaseOptions
from ldm_ray.data.releases.text_table import ENDS_WITH_NEWLINE, read_text_table
from ldm_ray.data.releases.well_table import (
    ReadWells,
    Structures,
    read_structures,
    read_wells,
    without_duplicates,
)
from ldm_ray.errors import DataError
from ldm_ray.storage.source import AnyFile, source_file

Files = AnyFile | Sequence[AnyFile]


def read_l1000(
    gctx: Files, inst_info: Files, pert_info: Files, gene_info: AnyFile, options: ReleaseOptions | None = None
) -> Release:
    """Open a release; its matrices are not read yet.

    Args:
        gctx: Level 3 matrices, log2; for instance treated wells and controls apart, or two phases.
        inst_info: Tables of wells. A well that is in several is taken from the first.
        pert_info: Tables of perturbagens, with SMILES; several rows a compound are fine.
        gene_info: One row per gene, 978 of them landmarks.
        options: What the files do not say.

    Raises:
        DataError: If a table lacks columns, the gene table does not mark 978 landmarks, a matrix lacks some of them,
            or wells contradict each other.
        StoreError: If a file is missing or damaged.
    """
    options = options or ReleaseOptions()
    matrices, inst_files, pert_files = (_several(files) for files in (gctx, inst_info, pert_info))
    readers = [open_gctx(file) for file in matrices]
    table = read_gene_info(gene_info)
    matched = [
        match_landmarks(
            {"row ids": reader.gene_ids}, table, str(reader.source), allow_missing=options.allow_missing_genes
        )
        for reader in readers
    ]
    structures = read_structures([read_text_table(file) for file in pert_files])
    tables = _read_tables(inst_files, structures, options)
    position, twice = _positions(readers, tables.wells)
    row = tables.wells["profile_id"].map(position)
    if row.isna().all():
        raise DataError(
            f"no well of {_names(inst_files)} is a column of {_names(matrices)}; are they from the same release?"
        )
    without_well = len(position.index.difference(tables.wells["profile_id"]).difference(tables.failed))
    if tables.cut and without_well:
        raise DataError(
            f"{tables.cut} does not end with a line end, and {without_well:,} profiles have no well in it:"
            " download it again, or end its last line if the table is complete"
        )
    wells = tables.wells.assign(row=row)[row.notna()].astype({"row": np.int64})
    wells = wells.sort_values("row", ignore_index=True)[list(WELL_COLUMNS)]
    counts = tables.counts | {
        "wells_without_profile": int(row.isna().sum()),
        "profiles_without_well": without_well,
        "duplicate_profiles": twice,
    }
    genes, columns = common_genes([genes for genes, _ in matched])
    reader = join_readers(readers, columns, [len(reader.profile_ids) for reader in readers])
    files = (*matrices, *inst_files, *pert_files, gene_info)
    notes = (*dict.fromkeys(note for _, note in matched), *structures.notes, *tables.notes)
    return Release(wells, genes, reader, tuple(map(source_file, files)), counts, notes)


def _several(files: Files) -> list[AnyFile]:
    return list(files) if isinstance(files, (list, tuple)) else [files]  # type: ignore[list-item]


def _names(files: Sequence[AnyFile]) -> str:
    return ", ".join(str(source_file(file)) for file in files)


@dataclass(frozen=True)
class _Tables:
    """The wells of all tables, each once.

    Attributes:
        wells: As `read_wells` returns them.
        failed: Ids of the wells that failed quality control.
        counts: Counts for the manifest.
        notes: What to tell the reader.
        cut: Name of a table whose last line does not end, or an empty text.
    """

    wells: pd.DataFrame
    failed: list[str]
    counts: dict[str, int]
    notes: list[str]
    cut: str


def _read_tables(files: Sequence[AnyFile], structures: Structures, options: ReleaseOptions) -> _Tables:
    """Read and join the tables of wells; a well in several is taken from the first."""
    read: list[ReadWells] = []
    failed: dict[str, None] = {}
    rows, cut = 0, ""
    for file in files:
        table = read_text_table(file)
        own = read_wells(table, None, structures, options)
        own = replace(own, wells=own.wells[~own.wells["profile_id"].isin(failed)])
        failed |= dict.fromkeys(own.failed or [])
        rows += len(own.wells)
        read.append(replace(own, wells=without_duplicates(own.wells, table.name)))
        cut = cut if table.frame.attrs[ENDS_WITH_NEWLINE] else table.name
    joined = pd.concat([own.wells for own in read], ignore_index=True)
    notes = [note for own in read for note in own.notes]
    different = joined.drop_duplicates()["profile_id"]
    if differing := different[different.duplicated()].to_list():
        notes.append(f"{len(differing):,} wells differ between the tables: the first is used ({differing[0]})")
    wells = joined.drop_duplicates("profile_id", ignore_index=True)
    counts = {"wells_in_table": rows + len(failed), "duplicate_instance_ids": rows - len(wells)}
    if any(own.failed is not None for own in read):
        counts["wells_that_failed_qc"] = len(failed)
    return _Tables(wells, list(failed), counts, notes, cut)


def _positions(readers: Sequence[GctxReader], wells: pd.DataFrame) -> tuple["pd.Series[int]", int]:
    """Return the row of each profile in the joined matrices, and how many stand in several of them.

    Raises:
        DataError: If a wanted profile stands twice in one matrix.
    """
    wanted = set(wells["profile_id"])
    for reader in readers:
        ids = pd.Series(reader.profile_ids)
        twice = ids[ids.duplicated() & ids.isin(wanted)]
        if len(twice):
            raise DataError(f"{reader.source}: {len(twice):,} column ids stand twice, such as {twice.iloc[0]!r}")
    ids = np.concatenate([reader.profile_ids for reader in readers])
    position = pd.Series(np.arange(len(ids)), index=ids)
    first = position[~position.index.duplicated()]
    return first, len(position) - len(first)
