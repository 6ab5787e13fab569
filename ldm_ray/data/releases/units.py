"""Doses in micromolar and times in hours, from amounts and units as people write them.

A unit that cannot be read is never taken for the default: the amount is unknown, and the reason is kept.
"""

import re

import numpy as np
import pandas as pd

from ldm_ray.data.releases.columns import EMPTY, Quantity, Table
from ldm_ray.data.releases.unit_names import HOURS, MICROMOLAR, spelt
from ldm_ray.errors import DataError

UNITS = {"dose": MICROMOLAR, "time": HOURS}
BASE_UNIT = {"dose": "um", "time": "h"}

UNKNOWN = "unknown"
"""Problem of an amount that the file does not give."""
NOT_POSITIVE = "not above 0"
"""Problem of an amount that is 0 or less; -666 counts as not given."""
NOT_GIVEN = EMPTY | {"restricted"}
AMOUNT = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*((?:[^\W\d]|[%(\[µ]).*)?", re.IGNORECASE)
APART = 5.0
"""Amounts of one well in two columns that differ by this factor do not differ by rounding, but in their unit."""


def read_amount(text: str, unit: str, factors: dict[str, float]) -> tuple[float, str]:
    """Read one amount; return it in the base unit, or NaN and what is wrong with it.

    Args:
        text: The amount, perhaps followed by its unit: `10`, `10 uM`, `1.1e-3`.
        unit: Its unit from elsewhere, empty if there is none.
        factors: The base units in one unit, by its name in lower case.
    """
    if text.strip().casefold() in NOT_GIVEN:
        return np.nan, UNKNOWN
    match = AMOUNT.fullmatch(text.strip().casefold())
    if match is None:
        return np.nan, f"{text!r} is not a number"
    number, own = float(match[1]), (match[2] or "").strip()
    if number == -666:
        return np.nan, UNKNOWN
    if not own and not unit:
        return np.nan, f"{text!r} has no unit"
    factor = factors.get(spelt(own or unit))
    if factor is None or (own and unit and factors.get(spelt(unit)) != factor):
        return np.nan, f"{text!r} in {unit!r}" if unit else repr(text)
    # Rounded, so that 1440 min and 24 h are the same time.
    return (float(f"{number * factor:.9g}"), "") if 0 < number < np.inf else (np.nan, NOT_POSITIVE)


def amounts(table: Table, quantity: Quantity, default_unit: str = "") -> tuple[pd.Series, pd.Series]:
    """Read a quantity of every row.

    Args:
        table: The wells.
        quantity: Which columns hold it.
        default_unit: The unit where the table says none; empty: such amounts cannot be read.

    Returns:
        The amounts in the base unit (NaN where unknown), and what is wrong with each (empty where nothing is).
    """
    factors = UNITS[quantity.name]
    value = low = high = pd.Series(np.nan, index=table.frame.index)
    problem = pd.Series(UNKNOWN, index=table.frame.index, dtype=object)
    for texts, units in _columns(table, quantity, default_unit):
        pairs = pd.MultiIndex.from_arrays([texts, units])
        codes, unique = pairs.factorize()
        read = [read_amount(text, unit, factors) for text, unit in unique]
        own_value = np.array([number for number, _ in read])[codes]
        own_problem = np.array([reason for _, reason in read], dtype=object)[codes]
        better = value.isna() & (~np.isnan(own_value) | ((problem == UNKNOWN) & (own_problem != UNKNOWN)))
        value, problem = value.mask(better, own_value), problem.mask(better, own_problem)
        low, high = np.fmin(low, own_value), np.fmax(high, own_value)
    apart, unit = high > low * APART, BASE_UNIT[quantity.name]
    for row in np.flatnonzero(apart):
        problem.iloc[row] = f"{low.iloc[row]:g} and {high.iloc[row]:g} {unit} in two columns"
    return value.mask(apart), problem


def _columns(table: Table, quantity: Quantity, default_unit: str) -> list[tuple[pd.Series, pd.Series]]:
    """Return the texts and units of each column that can hold a quantity."""
    found = []
    units_there = [unit for unit in dict.fromkeys(unit for _, unit in quantity.columns) if table.has((unit,))]
    there = [(value, unit) for value, unit in quantity.columns if table.has((value,))]
    for value, unit in there:
        # One column of amounts and one of units belong together whatever they are called.
        partner = unit if unit in units_there or len(there) > 1 else next(iter(units_there), unit)
        units = table.text((partner,)) if table.has((partner,)) else pd.Series("", index=table.frame.index)
        texts = table.text((value,))
        if not table.has((partner,)) and default_unit:
            units = units.mask(~texts.map(has_unit), default_unit)
        found.append((texts, units))
    for name, unit in quantity.fixed.items():
        if table.has((name,)):
            found.append((table.text((name,)), _all(table, unit)))
            if units_there and not there:  # a column of units beside it must not contradict its name
                found.append((table.text((name,)), table.text(tuple(units_there))))
    found += [(table.text((name,)), _all(table, "")) for name in quantity.written if table.has((name,))]
    return found


def _all(table: Table, text: str) -> pd.Series:
    return pd.Series(text, index=table.frame.index)


def has_unit(text: str) -> bool:
    """Tell whether an amount is followed by a unit."""
    match = AMOUNT.fullmatch(text.strip().casefold())
    return match is not None and bool(match[2])


def check_unit(unit: str, name: str) -> str:
    """Return a unit given by the user, if it can be read; an empty text means none.

    Raises:
        DataError: If it is not a unit of the quantity.
    """
    if unit and spelt(unit) not in UNITS[name]:
        raise DataError(f"--{name}-unit must be one of {', '.join(UNITS[name])}; got {unit!r}")
    return unit
