"""Joins drug sensitivities to a dataset's cell lines and compounds."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ldm_ray.chem.smiles import parse_compound
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.gdsc import GdscTable
from ldm_ray.data.gdsc_cells import match_cells
from ldm_ray.data.gdsc_drugs import flag_notes, match_drugs

SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("cell_line", pa.string()),
        ("drug", pa.string()),
        ("drug_id", pa.string()),
        ("ln_ic50_um", pa.float32()),
        ("parent_smiles", pa.string()),
        ("cell_id", pa.int16()),
        ("compound_id", pa.int32()),
    ]
)
"""`cell_id` and `compound_id` are -1 where the dataset has no match; the texts are empty where they are unknown."""


@dataclass(frozen=True)
class GdscCounts:
    """How much of the table could be read and joined; `repeated` rows have the cell line and drug of an earlier one."""

    rows: int
    repeated: int
    without_ic50: int
    unreadable: int
    identical: int
    other_datasets: dict[str, int]
    cell_lines: int
    cell_lines_joined: int
    cell_lines_ambiguous: dict[str, tuple[str, ...]]
    drugs: int
    drugs_joined: int
    drugs_ambiguous: tuple[str, ...]
    drugs_contradicted: tuple[str, ...]
    rows_joined: int


@dataclass(frozen=True)
class JoinedGdsc:
    """The joined table (columns of `SCHEMA`), its counts, and notes on what was not used, one sentence each."""

    table: pa.Table
    counts: GdscCounts
    notes: list[str]


def join_gdsc(gdsc: GdscTable, dataset: PairedDataset) -> JoinedGdsc:
    """Join all measurements to a dataset; see `match_cells` and `match_drugs` for what matches.

    Args:
        gdsc: From `read_gdsc_table`.
        dataset: Its cell lines and compounds are matched.
    """
    rows = gdsc.rows
    cells, drugs = match_cells(rows, dataset.cells), match_drugs(rows, dataset)
    number = {name: i for i, name in enumerate(dataset.cells)}
    cell_id = rows["cell_line"].map({name: number[known] for name, known in cells.found.items()}).fillna(-1)
    pairs = zip(rows["drug"], rows["smiles"], strict=True)
    compound_id = np.array([drugs.compound_id.get(pair, -1) for pair in pairs], dtype=np.int32)
    structures = {text: parse_compound(text) for text in rows["smiles"].unique()}
    own = {text: found.parent_smiles if found and found.is_one_drug else "" for text, found in structures.items()}
    matched = [str(dataset.parent_smiles[i]) if i >= 0 else "" for i in compound_id]
    parents = [own[text] or parent for text, parent in zip(rows["smiles"], matched, strict=True)]
    texts = rows[["dataset", "cell_line", "drug", "drug_id"]].to_dict("list")
    columns = texts | {
        "ln_ic50_um": rows["ln_ic50_um"].to_numpy(dtype=np.float32),
        "parent_smiles": parents,
        "cell_id": cell_id.to_numpy(dtype=np.int16),
        "compound_id": compound_id,
    }
    in_cell, in_drug = cell_id.to_numpy() >= 0, compound_id >= 0
    counts = GdscCounts(
        rows=len(rows),
        repeated=int(rows.duplicated(["cell_line", "drug"]).sum()),
        without_ic50=gdsc.without_ic50,
        unreadable=gdsc.unreadable,
        identical=gdsc.identical,
        other_datasets=gdsc.other_datasets,
        cell_lines=rows["cell_line"].nunique(),
        cell_lines_joined=rows["cell_line"][in_cell].nunique(),
        cell_lines_ambiguous=cells.ambiguous,
        drugs=rows["drug"].nunique(),
        drugs_joined=rows["drug"][in_drug].nunique(),
        drugs_ambiguous=drugs.ambiguous,
        drugs_contradicted=drugs.contradicted,
        rows_joined=int((in_cell & in_drug).sum()),
    )
    twice = [f"repeated measurements of a cell line and drug, all kept: {counts.repeated:,}"] if counts.repeated else []
    notes = [*gdsc.notes(), *twice, *cells.notes(), *drugs.notes(), *flag_notes(rows)]
    return JoinedGdsc(pa.table(columns, schema=SCHEMA), counts, notes)
