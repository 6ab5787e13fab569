"""Doses and times as people write them: decimal commas are read; units and thousands separators are refused by name."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

from ldm_ray.data.releases.unit_names import HOURS, MICROMOLAR, spelt
from ldm_ray.errors import QueryError

Decimal = Literal[".", ",", ".,"]
"""The decimal marks of a table. Where there are both, `1,000` and `1.000` may each mean 1 or 1000."""

NUMBER = re.compile(r"[+-]?(?=[.,]?[0-9])([0-9]*)(?:([.,])([0-9]*))?(?:[eE][+-]?[0-9]+)?")
GROUPED = re.compile(r"[+-]?[0-9]{1,3}(?:[.,' \u00a0\u2019\u202f][0-9]{3})+(?:[.,][0-9]*)?")
WITH_UNIT = re.compile(r"(.*[0-9.,])\s*([a-z/\u00b5\u03bc]+\.?)", re.IGNORECASE)
UNITS = {"dose_um": ("micromolar", MICROMOLAR), "time_h": ("hours", HOURS)}
"""The unit of each column, and what one of each other unit is in it."""


def decimal_marks(texts: Iterable[str]) -> Decimal:
    """Return the decimal marks in the numbers of a table; only those count that cannot separate thousands."""
    found = map(NUMBER.fullmatch, {text for text in texts if "," in text or "." in text})
    marks = {match[2] for match in found if match and match[2] and not _may_be_thousands(match)}
    if marks == {",", "."}:
        return ".,"
    return "," if marks == {","} else "."


@lru_cache(maxsize=4096)
def number(name: str, text: str, decimal: Decimal = ".") -> float:
    """Read a dose or a time.

    Args:
        name: Its column, `dose_um` or `time_h`.
        text: What is written, without spaces around it.
        decimal: The decimal marks of its table.

    Raises:
        QueryError: If it is no plain number, or may be one of two; says what to write instead.
    """
    match = NUMBER.fullmatch(text)
    if match is None:
        raise QueryError(f"{name} must be a number above 0; got {text!r}{_advice(name, text)}", field=name)
    if _may_be_thousands(match) and match[2] != decimal:
        one, other = float(text.replace(match[2], "")), float(text.replace(",", "."))
        raise QueryError(
            f"{name} {text!r} may be {one:g} or {other:g};"
            " write all numbers with a decimal point and without thousands separators",
            field=name,
        )
    return float(text.replace(",", "."))


def _may_be_thousands(match: re.Match[str]) -> bool:
    """Tell whether the mark of a number may separate thousands: 1,000 but not 0,500 or 10,0 or 1234,567."""
    whole, mark, fraction = match[1], match[2], match[3]
    return bool(mark) and len(fraction) == 3 and 1 <= len(whole) <= 3 and not whole.startswith("0")


def _advice(name: str, text: str) -> str:
    if GROUPED.fullmatch(text):
        return "; write it with a decimal point and without thousands separators"
    found = WITH_UNIT.fullmatch(text)
    unit, others = UNITS[name]
    factor = others.get(spelt(found[2])) if found else None
    if found is None or factor is None:
        return ""
    try:
        return f"; write {number(name, found[1].strip()) * factor:g}, in {unit}"
    except QueryError:
        return f"; write the number alone, in {unit}"
