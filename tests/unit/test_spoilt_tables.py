"""Query tables and GDSC tables spoilt in one way each: refused in one line, or read with no value changed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ldm_ray.data.gdsc import read_gdsc_table
from ldm_ray.errors import LdmRayError, QueryError
from ldm_ray.prediction.bulk.conditions import open_conditions
from ldm_ray.prediction.bulk.rows import queries_of
from tests.mutations import Rng, change_bytes, change_table

ROWS = 30


def queries(rng: Rng) -> pd.DataFrame:
    """Conditions, each known by its name; the name comes last, so that a file that is cut lacks a cell."""
    table = {
        "smiles": rng.choice(["CCO", "CCN(C)C", "CC(=O)Oc1ccccc1C(=O)O"], ROWS),
        "cell": rng.choice(["A375", "697", "MCF7"], ROWS),
        "dose_um": rng.choice([0.04, 1.11, 10.0, 88.8], ROWS),
        "time_h": rng.choice([6.0, 24.0], ROWS),
        "name": [f"row-{i:03d}-end" for i in range(ROWS)],
    }
    return pd.DataFrame(table)


def measurements(rng: Rng) -> pd.DataFrame:
    """GDSC's columns."""
    table = {
        "DATASET": ["GDSC2"] * ROWS,
        "CELL_LINE_NAME": [f"LINE-{i}" for i in range(ROWS)],
        "LN_IC50": rng.normal(2, 3, ROWS).round(6),
        "DRUG_NAME": rng.choice(["cisplatin", "olaparib"], ROWS),
        "NOTE": ["end"] * ROWS,
    }
    return pd.DataFrame(table)


def spoil(rng: Rng, table: pd.DataFrame, path: Path) -> str:
    """Write a table as tab-separated text, with one thing wrong; say what."""
    said = ""
    if rng.random() < 0.5:
        table, said = change_table(rng, table)
    table.to_csv(path, sep="\t", index=False)
    return said or change_bytes(rng, path)


def outcome_of_queries(seed: int, folder: Path) -> str:
    """Spoil a query table and read it; return what was done and what came of it."""
    rng = np.random.default_rng(seed)
    truth = queries(rng)
    said = spoil(rng, truth, folder / "q.tsv")
    try:
        read = [query for table in open_conditions(str(folder / "q.tsv")).tables() for query in queries_of(table)]
    except LdmRayError as error:
        return f"{said} -> {error}"
    kept = [query for query in read if not isinstance(query, QueryError)]
    known = {row["name"]: row for row in truth.to_dict("records")}
    for query in kept:
        # What the table itself now says is read as it says.
        if query.name in known and not any(word in said for word in (" in ", "banana", "twice")):
            row = known[query.name]
            assert (query.smiles, query.cell) == (row["smiles"], row["cell"]), said
            assert (query.dose_um, query.time_h) == (row["dose_um"], row["time_h"]), said
    for refused in (query for query in read if isinstance(query, QueryError)):
        assert "line " in str(refused)
    return f"{said} -> {len(kept)} read, {len(read) - len(kept)} refused"


def outcome_of_gdsc(seed: int, folder: Path) -> str:
    """Spoil a GDSC table and read it; return what was done and what came of it."""
    rng = np.random.default_rng(seed)
    truth = measurements(rng)
    said = spoil(rng, truth, folder / "g.tsv")
    try:
        rows = read_gdsc_table(folder / "g.tsv").rows
    except LdmRayError as error:
        return f"{said} -> {error}"
    known = dict(zip(truth["CELL_LINE_NAME"], truth["LN_IC50"], strict=True))
    if " in " not in said:
        for line, value in zip(rows["cell_line"], rows["ln_ic50_um"], strict=True):
            assert known.get(line, value) == value, said
    return f"{said} -> {len(rows)} read"


@pytest.mark.parametrize("seed", range(25))
def test_spoilt_tables_are_refused_or_read_rightly(seed: int, tmp_path: Path) -> None:
    outcome_of_queries(seed, tmp_path)
    outcome_of_gdsc(seed, tmp_path)
