"""Reads a GSE92742-shaped release: GCTX matrix, inst_info, pert_info and gene_info.

The names and sentinels of L1000's own files (`pert_idose`, `-666`) are not used outside this module.
"""

from typing import Literal

import numpy as np
import pandas as pd

from ldm_ray.data.gctx import GctxReader, open_gctx
from ldm_ray.data.release import WELL_COLUMNS, Genes, Release
from ldm_ray.data.source import AnyFile, source_file
from ldm_ray.errors import DataError, StoreError

INST_INFO_COLUMNS = (
    "inst_id", "rna_plate", "rna_well", "pert_id", "pert_iname", "pert_type", "pert_dose", "pert_dose_unit",
    "pert_time", "pert_time_unit", "cell_id",
)  # fmt: skip
PERT_INFO_COLUMNS = (
    "pert_id", "pert_iname", "pert_type", "is_touchstone", "inchi_key_prefix", "inchi_key", "canonical_smiles",
    "pubchem_cid",
)  # fmt: skip
GENE_INFO_COLUMNS = ("pr_gene_id", "pr_gene_symbol", "pr_gene_title", "pr_is_lm", "pr_is_bing")
N_LANDMARKS = 978
SENTINELS = frozenset({"-666", "-666.0", "", "nan", "restricted"})
MICROMOLAR = {"nm": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "mm": 1e3, "m": 1e6}
HOURS = {"h": 1.0, "hr": 1.0, "hour": 1.0, "hours": 1.0, "min": 1 / 60, "m": 1 / 60, "d": 24.0, "day": 24.0}


def read_l1000(
    gctx: AnyFile,
    inst_info: AnyFile,
    pert_info: AnyFile,
    gene_info: AnyFile,
    *,
    allow_missing_genes: bool = False,
) -> Release:
    """Open a release; the matrix is not read yet.

    Args:
        gctx: Level 3 matrix, log2.
        inst_info: One row per well.
        pert_info: One row per perturbagen, with SMILES.
        gene_info: One row per gene, 978 of them landmarks.
        allow_missing_genes: Accept a matrix that lacks some landmark genes.

    Raises:
        DataError: If a table lacks columns, the gene table does not mark 978 landmarks, or the matrix lacks
            some of them.
        StoreError: If a file is missing or damaged.
    """
    reader = open_gctx(gctx)
    genes = match_landmarks(read_gene_info(gene_info), reader, allow_missing=allow_missing_genes)
    inst = _read_table(inst_info, INST_INFO_COLUMNS)
    pert = _read_table(pert_info, ("pert_id", "canonical_smiles")).drop_duplicates("pert_id")
    counts = {"wells_in_table": len(inst)}
    inst = inst.drop_duplicates("inst_id")
    counts["duplicate_instance_ids"] = counts["wells_in_table"] - len(inst)
    position = pd.Series(np.arange(len(reader.profile_ids)), index=reader.profile_ids)
    position = position[~position.index.duplicated()]
    inst = inst.assign(row=inst["inst_id"].map(position))
    counts["wells_without_profile"] = int(inst["row"].isna().sum())
    inst = inst[inst["row"].notna()]
    if inst.empty:
        raise DataError(f"no inst_id of {inst_info} is a column of {gctx}; are they from the same release?")
    wells = pd.DataFrame(
        {
            "profile_id": inst["inst_id"],
            "plate": inst["rna_plate"],
            "well": inst["rna_well"],
            "source_id": inst["pert_id"],
            "name": inst["pert_iname"],
            "kind": inst["pert_type"].str.strip().str.casefold(),
            "smiles": inst["pert_id"].map(pert.set_index("pert_id")["canonical_smiles"]).fillna(""),
            "cell": inst["cell_id"],
            "dose_um": in_units(inst["pert_dose"], inst["pert_dose_unit"], MICROMOLAR),
            "time_h": in_units(inst["pert_time"], inst["pert_time_unit"], HOURS),
            "row": inst["row"].astype(np.int64),
        }
    )
    wells = wells.sort_values("row", ignore_index=True)[list(WELL_COLUMNS)]
    return Release(wells, genes, reader, tuple(map(source_file, (gctx, inst_info, pert_info, gene_info))), counts)


def in_units(values: pd.Series, units: pd.Series, factors: dict[str, float]) -> pd.Series:
    """Read amounts with units; NaN for sentinels, unknown units and amounts that are not above 0."""
    number = pd.to_numeric(values.astype(str).where(~values.astype(str).isin(SENTINELS)), errors="coerce")
    factor = units.astype(str).str.strip().str.lower().map(factors)
    amount = (number * factor).astype(float)
    return amount.where(np.isfinite(amount) & (amount > 0))


def read_gene_info(path: AnyFile) -> pd.DataFrame:
    """Read a gene table, every column as text; an Entrez id such as 780.0 becomes 780."""
    table = _read_table(path, ("pr_gene_id", "pr_gene_symbol", "pr_is_lm"))
    table = table.assign(pr_gene_id=table["pr_gene_id"].str.strip().str.removesuffix(".0"))
    bad = table.loc[~table["pr_gene_id"].str.fullmatch(r"\d+"), "pr_gene_id"]
    if len(bad):
        raise DataError(f"{path}: pr_gene_id must be an Entrez id; got {bad.iloc[0]!r}")
    n_landmarks = int((table["pr_is_lm"] == "1").sum())
    if n_landmarks != N_LANDMARKS:
        raise DataError(f"{path} must mark {N_LANDMARKS} landmark genes (pr_is_lm = 1); got {n_landmarks}")
    return table


def match_landmarks(gene_info: pd.DataFrame, reader: GctxReader, *, allow_missing: bool) -> Genes:
    """Find the landmark genes among the matrix's rows, by Entrez id."""
    landmarks = gene_info[gene_info["pr_is_lm"] == "1"].drop_duplicates("pr_gene_id")
    position = {text.strip().removesuffix(".0"): i for i, text in enumerate(reader.gene_ids)}
    found = landmarks["pr_gene_id"].isin(list(position))
    missing = tuple(landmarks.loc[~found, "pr_gene_symbol"])
    if found.sum() == 0 or (missing and not allow_missing):
        raise DataError(_missing_genes_message(landmarks[~found], reader, len(landmarks), position))
    kept = landmarks[found]
    return Genes(
        kept["pr_gene_symbol"].to_numpy(dtype=str),
        kept["pr_gene_id"].astype(np.int64).to_numpy(),
        kept["pr_gene_id"].map(position).to_numpy(dtype=np.int64),
        missing,
    )


def _missing_genes_message(
    missing: pd.DataFrame, reader: GctxReader, n_landmarks: int, position: dict[str, int]
) -> str:
    shown = [f"{row.pr_gene_symbol} ({row.pr_gene_id})" for row in missing.head(8).itertuples()]
    more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
    text = f"{reader.source} lacks {len(missing)} of {n_landmarks} landmark genes: {', '.join(shown)}{more}"
    cut = [gene for gene in missing["pr_gene_id"] if any(gene[:k] in position for k in range(4, len(gene)))]
    if len(cut) == len(missing):
        text += "; its row ids look truncated"
    return text + "; --allow-missing-genes keeps the others"


def _read_table(file: AnyFile, columns: tuple[str, ...]) -> pd.DataFrame:
    path = source_file(file)
    if not path.exists():
        raise StoreError(f"table {path} does not exist")
    try:
        packed: Literal["gzip"] | None = "gzip" if path.name.endswith(".gz") else None
        table = pd.read_csv(
            path.buffer(), sep="\t", dtype=str, keep_default_na=False, encoding="utf-8", quoting=3, compression=packed
        )
    except StoreError:
        raise
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not a tab-separated table: {' '.join(str(error).split())}") from None
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(f"{path} must have the column {missing[0]!r}; got {', '.join(table.columns[:8])}")
    return table
