"""Reads a table of drug sensitivities: GDSC's fitted dose responses, or the download of its website.

`LN_IC50` is the natural logarithm of the IC50 in uM. The website's `IC50` is the same number under another heading.

Source: Iorio et al. 2016, doi:10.1016/j.cell.2016.06.017; Yang et al. 2013, doi:10.1093/nar/gks1111.
"""

from dataclasses import dataclass

import pandas as pd

from ldm_ray.data.cell_names import folded
from ldm_ray.data.spreadsheet import MISSING, has_decimal_commas, read_numbers, read_spreadsheet
from ldm_ray.errors import DataError
from ldm_ray.settings import GdscDataset
from ldm_ray.storage.source import AnyFile

REQUIRED = {"cell_line": "CELL_LINE_NAME", "drug": "DRUG_NAME", "value": "LN_IC50"}
HEADINGS = {
    "cell_line": ("celllinename",),
    "drug": ("drugname",),
    "value": ("lnic50",),
    "dataset": ("dataset", "datasetversion"),
    "drug_id": ("drugid",),
    "line_id": ("cosmicid", "cosmicsampleid", "sangermodelid"),
    "smiles": ("smiles",),
}
"""Our name of a column to its headings, without case and punctuation; the first one found is used."""
UNLABELLED = "ic50"
MAX_ABS_LN_IC50 = 30.0
"""Fitted values lie between about -10 and 15; exp(30) uM is no concentration."""
SHOWN = 3


@dataclass(frozen=True)
class GdscTable:
    """The measurements of one dataset.

    Attributes:
        rows: Columns `dataset`, `cell_line`, `line_id` (COSMIC's or Sanger's), `drug`, `drug_id`, `smiles`, all text,
            "" where the table does not say; and `ln_ic50_um`. A cell line and drug measured twice have two rows.
        dataset: The dataset that was asked for.
        form: How the file was read.
        without_ic50: Rows without a value.
        unreadable: Rows whose value is no number.
        examples: The first of these, with their row in the file.
        identical: Rows equal to an earlier one in all columns.
        other_datasets: Number of rows of each other dataset.
    """

    rows: pd.DataFrame
    dataset: GdscDataset
    form: str
    without_ic50: int
    unreadable: int
    examples: tuple[str, ...]
    identical: int
    other_datasets: dict[str, int]

    def __len__(self) -> int:
        """Return the number of different rows of the dataset, with or without a value."""
        return len(self.rows) + self.without_ic50 + self.unreadable

    def notes(self) -> list[str]:
        """Return what was left out and why, one sentence each."""
        others = ", ".join(f"{count:,} of {name}" for name, count in self.other_datasets.items())
        said = [
            (self.other_datasets, f"rows left out, since setting ic50.dataset is {self.dataset}: {others}"),
            (self.identical, f"rows left out that repeat another one: {self.identical:,}"),
            (self.without_ic50, f"rows left out without a value: {self.without_ic50:,}"),
            (
                self.unreadable,
                f"rows left out whose value is no number: {self.unreadable:,}, the first {', '.join(self.examples)}",
            ),
        ]
        return [text for holds, text in said if holds]


def read_gdsc_table(file: AnyFile, dataset: GdscDataset = "GDSC2") -> GdscTable:
    """Read a table of drug sensitivities: delimited text, gzipped or not, or .xlsx.

    Args:
        file: Columns `CELL_LINE_NAME`, `DRUG_NAME` and `LN_IC50`, or the website's `Cell Line Name`, `Drug Name` and
            `IC50`; optionally `DATASET`, `COSMIC_ID` or `SANGER_MODEL_ID`, `DRUG_ID` and `SMILES`.
        dataset: Which rows to keep, if the table has a column `DATASET`; without one all rows are kept.

    Raises:
        DataError: If it lacks columns, holds no row of the dataset, or its values are not LN_IC50.
        StoreError: If it cannot be read.
    """
    table = read_spreadsheet(file, "GDSC table")
    columns = _find_columns(str(file), table.frame)
    everything = pd.DataFrame({name: table.frame[heading] for name, heading in columns.items()})
    everything = everything.reindex(columns=list(HEADINGS), fill_value="")
    everything["line_id"] = everything["line_id"].str.removesuffix(".0")
    chosen, others = _choose(str(file), everything, dataset) if "dataset" in columns else (everything, {})
    rows = chosen[~table.frame.loc[chosen.index].duplicated()]
    number = read_numbers(rows["value"])
    missing = rows["value"].str.lower().isin(MISSING)
    unreadable = rows["value"][number.isna() & ~missing]
    _check_values(str(file), columns["value"], rows["value"], number)
    return GdscTable(
        rows=rows.drop(columns="value").assign(ln_ic50_um=number)[number.notna()].reset_index(drop=True),
        dataset=dataset,
        form=table.form + _reading(columns["value"], rows["value"]),
        without_ic50=int(missing.sum()),
        unreadable=len(unreadable),
        examples=_examples(unreadable),
        identical=len(chosen) - len(rows),
        other_datasets=others,
    )


def read_gdsc(file: AnyFile, dataset: GdscDataset = "GDSC2") -> pd.DataFrame:
    """Return the rows of `read_gdsc_table`."""
    return read_gdsc_table(file, dataset).rows


def _find_columns(file: str, frame: pd.DataFrame) -> dict[str, str]:
    """Return the headings in use by our names."""
    headings: dict[str, list[str]] = {}
    for heading in frame.columns:
        headings.setdefault(folded(heading), []).append(heading)
    wanted = HEADINGS if set(HEADINGS["value"]) & set(headings) else HEADINGS | {"value": (UNLABELLED,)}
    found = {name: next((headings[text] for text in texts if text in headings), []) for name, texts in wanted.items()}
    lacking = [heading for name, heading in REQUIRED.items() if not found[name]]
    if lacking:
        has = ", ".join(frame.columns[:8]) + (", ..." if len(frame.columns) > 8 else "")
        raise DataError(f"{file} lacks the columns {', '.join(lacking)}; it has {has}")
    for same in found.values():
        if len(same) > 1:
            raise DataError(f"{file} must have one column {same[0]}; got {', '.join(same)}")
    return {name: same[0] for name, same in found.items() if same}


def _choose(file: str, rows: pd.DataFrame, dataset: GdscDataset) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the rows of a dataset, and how many each other dataset has."""
    counts = rows["dataset"].value_counts()
    names = {name: folded(name) == folded(dataset) for name in counts.index}
    others = {name or "no dataset": int(counts[name]) for name, wanted in names.items() if not wanted}
    chosen = rows[rows["dataset"].map(names)]
    if chosen.empty:
        has = ", ".join(f"{count:,} of {name}" for name, count in others.items())
        raise DataError(f"{file} has no row of {dataset}, which setting ic50.dataset asks for; it has {has}")
    return chosen, others


def _check_values(file: str, heading: str, texts: pd.Series, number: pd.Series) -> None:
    """Raise unless the values are, beyond doubt, natural logarithms of uM."""
    if number.isna().all():
        first = ", ".join(_examples(texts))
        raise DataError(f"{file}: none of the {len(texts):,} values of {heading} can be read, the first: {first}")
    beyond = texts[number.abs() > MAX_ABS_LN_IC50]
    if len(beyond):
        raise DataError(
            f"{file}: {heading} must be the natural logarithm of uM, between {-MAX_ABS_LN_IC50:g} and"
            f" {MAX_ABS_LN_IC50:g}; got {len(beyond):,} others, the first: {', '.join(_examples(beyond))}"
        )
    if folded(heading) == UNLABELLED and not (number < 0).any():
        raise DataError(
            f"{file}: {heading} could be uM or its natural logarithm, since none of its {len(texts):,} values is below"
            " 0; if it is the logarithm, as in the download of GDSC's website, name it LN_IC50"
        )


def _reading(heading: str, texts: pd.Series) -> str:
    """Say what is unusual in how the values were read."""
    renamed = f", {heading} taken as LN_IC50" if folded(heading) == UNLABELLED else ""
    return renamed + (", decimal commas" if has_decimal_commas(texts) else "")


def _examples(texts: pd.Series) -> tuple[str, ...]:
    return tuple(f"{text!r} in row {row}" for row, text in texts.head(SHOWN).items())
