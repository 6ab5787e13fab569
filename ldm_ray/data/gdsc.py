"""Drug sensitivity: GDSC2's table of fitted dose responses, joined to a dataset's cell lines and compounds, and the
untreated profiles of its cell lines.

Column names are the official ones (`CELL_LINE_NAME`, `DRUG_NAME`, `LN_IC50`, `AUC`, `Z_SCORE`, `COSMIC_ID`,
`DRUG_ID`), with an optional `SMILES`. `LN_IC50` is the natural logarithm of the IC50 in uM.

Source: Iorio et al. 2016, doi:10.1016/j.cell.2016.06.017; Yang et al. 2013, doi:10.1093/nar/gks1111.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from ldm_ray.chem.smiles import parse_compound
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.manifest import Gene
from ldm_ray.data.source import AnyFile, source_file
from ldm_ray.errors import DataError, StoreError

COLUMNS = ("CELL_LINE_NAME", "DRUG_NAME", "LN_IC50")
SCHEMA = pa.schema(
    [
        ("cell_line", pa.string()),
        ("drug", pa.string()),
        ("ln_ic50_um", pa.float32()),
        ("parent_smiles", pa.string()),
        ("cell_id", pa.int16()),
        ("compound_id", pa.int32()),
    ]
)
"""`cell_id` and `compound_id` are -1 where the dataset has no match; `parent_smiles` is empty where it is unknown."""


@dataclass(frozen=True)
class GdscCounts:
    """How much of the table could be joined."""

    rows: int
    without_ic50: int
    cell_lines: int
    cell_lines_joined: int
    drugs: int
    drugs_joined: int
    rows_joined: int


def normalised(name: str) -> str:
    """Return a name as it is compared: upper case, letters and digits only (`SK-MEL-5` equals `SKMEL5`)."""
    return re.sub(r"[^A-Z0-9]", "", name.upper())


def read_gdsc(file: AnyFile) -> pd.DataFrame:
    """Read a table of fitted dose responses: .csv, .csv.gz, or .xlsx as GDSC publishes it.

    Returns:
        Columns `cell_line`, `drug`, `ln_ic50_um` (NaN where missing) and `smiles` (empty where missing).

    Raises:
        DataError: If it lacks columns.
        StoreError: If it cannot be read.
    """
    source = source_file(file)
    if not source.exists():
        raise StoreError(f"GDSC table {source} does not exist")
    try:
        if source.name.endswith(".xlsx"):
            table = pd.read_excel(source.buffer(), dtype=str)
        else:
            packed = "gzip" if source.name.endswith(".gz") else None
            table = pd.read_csv(source.buffer(), dtype=str, compression=packed, keep_default_na=False)
    except StoreError:
        raise
    except ImportError as error:
        raise DataError(f"{source}: save it as .csv, or install what Excel files need: {error}") from None
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{source} is not a table: {' '.join(str(error).split())}") from None
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise DataError(f"{source} must have the column {missing[0]!r}; got {', '.join(table.columns[:8])}")
    smiles = table["SMILES"] if "SMILES" in table.columns else pd.Series("", index=table.index)
    number = pd.to_numeric(table["LN_IC50"], errors="coerce")
    return pd.DataFrame(
        {
            "cell_line": table["CELL_LINE_NAME"].str.strip(),
            "drug": table["DRUG_NAME"].str.strip(),
            "ln_ic50_um": number.where(np.isfinite(number)),
            "smiles": smiles.fillna("").str.strip(),
        }
    )


def read_basal_profiles(file: AnyFile, genes: Sequence[Gene]) -> tuple[list[str], np.ndarray]:
    """Read untreated profiles of cell lines, .csv or .csv.gz: column `cell_id`, then one column per Entrez id.

    Args:
        file: The table; other genes are ignored.
        genes: The wanted genes in order (a bundle's `metadata["genes"]`).

    Returns:
        Names of the cell lines and their expression, log2, (n_cells, n_genes), float32.

    Raises:
        DataError: If a gene is missing, a cell line appears twice, or a value is not a finite number.
        StoreError: If it cannot be read.
    """
    source = source_file(file)
    if not source.exists():
        raise StoreError(f"basal profiles {source} do not exist")
    try:
        packed = "gzip" if source.name.endswith(".gz") else None
        table = pd.read_csv(source.buffer(), compression=packed, dtype={"cell_id": str}, keep_default_na=False)
    except StoreError:
        raise
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{source} is not a table: {' '.join(str(error).split())}") from None
    if "cell_id" not in table.columns:
        raise DataError(f"{source} must have the column 'cell_id'; got {', '.join(table.columns[:8])}")
    missing = [gene for gene in genes if str(gene["entrez_id"]) not in table.columns]
    if missing:
        first = f"{missing[0]['entrez_id']} ({missing[0]['symbol']})"
        raise DataError(f"{source} lacks {len(missing)} of the {len(genes)} genes (Entrez ids), the first {first}")
    names = table["cell_id"].str.strip()
    if names.map(normalised).duplicated().any():
        raise DataError(f"{source}: cell line {names[names.map(normalised).duplicated()].iloc[0]!r} appears twice")
    wanted = table[[str(gene["entrez_id"]) for gene in genes]].apply(pd.to_numeric, errors="coerce")
    values = wanted.to_numpy(dtype=np.float32)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise DataError(
            f"{source} holds NaN or infinite values in {bad.sum()} cell lines, the first {names[bad].iloc[0]}"
        )
    return names.to_list(), values


def join_gdsc(table: pd.DataFrame, dataset: PairedDataset) -> tuple[pa.Table, GdscCounts]:
    """Join a table to a dataset: cell lines by normalised name; drugs by parent structure, else by normalised name.

    Args:
        table: From `read_gdsc`.
        dataset: Its cell lines and compounds are matched.

    Returns:
        All rows with an IC50, columns of `SCHEMA`, and counts of what was joined.
    """
    usable = table[table["ln_ic50_um"].notna()]
    cells = {normalised(name): number for number, name in enumerate(dataset.cells)}
    cell_id = usable["cell_line"].map(lambda name: cells.get(normalised(name), -1))
    parents = {text: parse_compound(text) for text in usable["smiles"].unique()}
    parent = usable["smiles"].map(lambda text: found.parent_smiles if (found := parents[text]) else "")
    by_structure = {text: number for number, text in enumerate(dataset.parent_smiles)}
    by_name = {
        normalised(name): number
        for number, names in enumerate(dataset.compounds["names"].to_pylist())
        for name in names
        if normalised(name)
    }
    drug_id = usable["drug"].map(lambda name: by_name.get(normalised(name), -1))
    compound_id = parent.map(lambda text: by_structure.get(text, -1)).where(lambda found: found >= 0, drug_id)
    known = compound_id.map(lambda number: str(dataset.parent_smiles[number]) if number >= 0 else "")
    columns = [
        pa.array(usable["cell_line"].to_list()),
        pa.array(usable["drug"].to_list()),
        pa.array(usable["ln_ic50_um"].to_numpy(dtype=np.float32)),
        pa.array(parent.where(parent != "", known).to_list()),
        pa.array(cell_id.to_numpy(dtype=np.int16)),
        pa.array(compound_id.to_numpy(dtype=np.int32)),
    ]
    counts = GdscCounts(
        rows=len(usable),
        without_ic50=len(table) - len(usable),
        cell_lines=usable["cell_line"].nunique(),
        cell_lines_joined=usable["cell_line"][cell_id >= 0].nunique(),
        drugs=usable["drug"].nunique(),
        drugs_joined=usable["drug"][compound_id >= 0].nunique(),
        rows_joined=int(((cell_id >= 0) & (compound_id >= 0)).sum()),
    )
    return pa.Table.from_arrays(columns, schema=SCHEMA), counts
