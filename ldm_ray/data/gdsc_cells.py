"""Matches the cell lines of a GDSC table to those of a dataset or of basal profiles, and never guesses."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from ldm_ray.data.cell_names import CellNames, folded
from ldm_ray.errors import listing

HOMONYMS = ("KM-H2", "KMH-2", "T-T", "TT")
"""Names of GDSC that differ only in punctuation and are different cell lines."""
SHOWN = 5


@dataclass(frozen=True)
class CellMatches:
    """Which known cell line each name of a table means.

    Attributes:
        found: Name in the table to known name.
        ambiguous: Name in the table to the known names that it could mean.
    """

    found: dict[str, str]
    ambiguous: dict[str, tuple[str, ...]]

    def notes(self) -> list[str]:
        """Return what was matched in spite of its spelling, and what was not matched, one sentence each."""
        respelled = [f"{name} as {known}" for name, known in sorted(self.found.items()) if name != known]
        said = []
        if respelled:
            said.append(f"matched without case and punctuation: {listing(respelled, SHOWN)}")
        if self.ambiguous:
            unclear = [f"{name} (perhaps {' or '.join(known)})" for name, known in self.ambiguous.items()]
            said.append(f"cell lines not matched, since their names are ambiguous: {', '.join(unclear)}")
        return said


def match_cells(rows: pd.DataFrame, known: Iterable[str]) -> CellMatches:
    """Match names: the exact one, else the one that equals it without case and punctuation if only one does.

    Names of the table that share these letters are rivals for it, as are GDSC's own `HOMONYMS`, unless both have the
    same id. A name with several ids is ambiguous.

    Args:
        rows: Columns `cell_line` and `line_id` (see `GdscTable`).
        known: The names to match.
    """
    known = frozenset(known)
    names = CellNames(known)
    ids: dict[str, set[str]] = {name: set() for name in HOMONYMS}
    lines = rows[["cell_line", "line_id"]].drop_duplicates()
    for name, line_id in lines.itertuples(index=False):
        ids.setdefault(name, set()).update({line_id} - {""})
    rivals: dict[str, list[str]] = {}
    for name in ids:
        rivals.setdefault(folded(name), []).append(name)
    found: dict[str, str] = {}
    ambiguous: dict[str, tuple[str, ...]] = {}
    for name in sorted(set(lines["cell_line"])):
        candidates = names.candidates(name)
        same = all(ids[name] and ids[name] == ids[other] for other in rivals[folded(name)] if other != name)
        if not candidates:
            continue
        if len(ids[name]) > 1 or len(candidates) > 1 or not (name in known or same):
            ambiguous[name] = candidates
        else:
            found[name] = candidates[0]
    return CellMatches(found, ambiguous)
