"""Doses and times, in the units and columns that people write them in."""

import numpy as np
import pandas as pd
import pytest

from ldm_ray.data.releases.columns import DOSE, TIME, Table
from ldm_ray.data.releases.units import NOT_POSITIVE, UNKNOWN, amounts


@pytest.mark.parametrize(
    ("dose", "unit", "expected"),
    [
        ("10", "µM", 10.0), ("10", "μM", 10.0), ("10", "ÂµM", 10.0), ("1110", "nM", 1.11), ("0.01", "mM", 10.0),
        ("10", "UM", 10.0), ("10", "micromolar", 10.0), ("10 uM", "", 10.0), ("500nM", "", 0.5), ("5", "umol/L", 5.0),
        ("10 uM", "um", 10.0), ("-666", "um", UNKNOWN), ("-666.0", "um", UNKNOWN), ("-666.000", "um", UNKNOWN),
        ("restricted", "um", UNKNOWN), ("", "", UNKNOWN), ("0", "um", NOT_POSITIVE), ("-3", "um", NOT_POSITIVE),
        ("10", "-666", "'10' has no unit"), ("10", "ng/mL", "'10' in 'ng/mL'"), ("10 nM", "uM", "'10 nM' in 'uM'"),
        ("1,000", "nM", "'1,000' is not a number"), ("inf", "um", "'inf' is not a number"), ("10", "%", "'10' in '%'"),
    ],
)  # fmt: skip
def test_doses_in_every_unit(dose: str, unit: str, expected: float | str) -> None:
    table = Table(pd.DataFrame({"pert_dose": [dose], "pert_dose_unit": [unit]}), "t")
    value, problem = (column.iloc[0] for column in amounts(table, DOSE))
    if isinstance(expected, str):
        assert np.isnan(value)
        assert problem == expected
    else:
        assert (value, problem) == (expected, "")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"time": "360", "time_unit": "min"}, 6.0), ({"pert_itime": "24 h"}, 24.0), ({"time_h": 6.0}, 6.0),
        ({"pert_time": "", "pert_time_unit": "h", "pert_itime": "24 h"}, 24.0), 
        ({"timepoint": "1", "time_unit": "d"}, 24.0),
    ],
)  # fmt: skip
def test_times_in_any_column(columns: dict[str, object], expected: float) -> None:
    value, _ = amounts(Table(pd.DataFrame([columns]), "t"), TIME)
    assert value.iloc[0] == expected
