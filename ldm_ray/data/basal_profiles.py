"""Reads untreated profiles of cell lines, which the benchmark of drug sensitivity starts from."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ldm_ray.data.manifest import Gene
from ldm_ray.data.spreadsheet import read_numbers, read_spreadsheet
from ldm_ray.errors import DataError
from ldm_ray.storage.source import AnyFile

MAX_LOG2 = 30.0
"""Far above any log2 intensity (L1000: 15), far below a linear one."""


def read_basal_profiles(file: AnyFile, genes: Sequence[Gene]) -> tuple[list[str], np.ndarray]:
    """Read untreated profiles: column `cell_id`, then one column per Entrez id.

    Args:
        file: Delimited text, gzipped or not, or .xlsx; other genes are ignored.
        genes: The wanted genes in order (a bundle's `metadata["genes"]`).

    Returns:
        Names of the cell lines and their expression, log2, (n_cells, n_genes), float32.

    Raises:
        DataError: If a gene is missing, a cell line appears twice, or a value is no finite number or not log2.
        StoreError: If it cannot be read.
    """
    table = read_spreadsheet(file, "table of basal profiles").frame
    if "cell_id" not in table.columns:
        raise DataError(f"{file} must have the column 'cell_id'; got {', '.join(table.columns[:8])}")
    missing = [gene for gene in genes if str(gene["entrez_id"]) not in table.columns]
    if missing:
        first = f"{missing[0]['entrez_id']} ({missing[0]['symbol']})"
        raise DataError(f"{file} lacks {len(missing)} of the {len(genes)} genes (Entrez ids), the first {first}")
    twice = [name for name in table.columns[table.columns.duplicated()] if name.isdigit() or name == "cell_id"]
    if twice:
        raise DataError(f"{file} has the column {twice[0]!r} twice")
    names = table["cell_id"]
    if names.duplicated().any():
        raise DataError(f"{file}: cell line {names[names.duplicated()].iloc[0]!r} appears twice")
    wanted = table[[str(gene["entrez_id"]) for gene in genes]]
    values = read_numbers(pd.Series(wanted.to_numpy().ravel())).to_numpy(dtype=np.float32).reshape(wanted.shape)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise DataError(
            f"{file} holds NaN or infinite values in {bad.sum()} cell lines, the first {names[bad].iloc[0]}"
        )
    if values.max() > MAX_LOG2:
        raise DataError(f"{file} must hold log2 expression, at most {MAX_LOG2:g}; got {values.max():g}")
    return names.to_list(), values
