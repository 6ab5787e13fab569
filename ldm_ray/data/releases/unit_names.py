"""What people call the units of doses and times."""

MICROMOLAR = {
    "pm": 1e-6, "picomolar": 1e-6, "pmol/l": 1e-6,
    "nm": 1e-3, "nanomolar": 1e-3, "nmol/l": 1e-3,
    "um": 1.0, "micromolar": 1.0, "umol/l": 1.0, "micromole/l": 1.0,
    "mm": 1e3, "millimolar": 1e3, "mmol/l": 1e3,
    "m": 1e6, "molar": 1e6, "mol/l": 1e6,
}  # fmt: skip
"""Micromolar in one unit of each name, spelt as `spelt` returns it."""
HOURS = {
    "s": 1 / 3600, "sec": 1 / 3600, "second": 1 / 3600, "seconds": 1 / 3600,
    "min": 1 / 60, "mins": 1 / 60, "minute": 1 / 60, "minutes": 1 / 60,
    "h": 1.0, "hr": 1.0, "hrs": 1.0, "hour": 1.0, "hours": 1.0,
    "d": 24.0, "day": 24.0, "days": 24.0,
}  # fmt: skip
"""Hours in one unit of each name."""


def spelt(unit: str) -> str:
    """Return a unit in lower case with one spelling of mu; 'â' and 'Â' come from a wrong encoding."""
    text = unit.strip().casefold().replace("μ", "u").replace("µ", "u").replace("âu", "u")
    return text.rstrip(".").strip("()[]")
