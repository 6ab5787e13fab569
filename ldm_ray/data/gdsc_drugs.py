"""Matches the drugs of a GDSC table to a dataset's compounds, by structure and by name, and never guesses."""

from dataclasses import dataclass

import pandas as pd

from ldm_ray.chem.smiles import parse_compound
from ldm_ray.data.cell_names import CellNames
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.errors import listing

SHOWN = 5
FLAGGED = {
    "metal": "drugs with a metal, whose SMILES is used as it is written",
    "mixture": "drugs left out, since their SMILES is a mixture of drugs",
    "incomplete": "drugs left out, since their SMILES has an open end (*)",
}
"""What is said of the drugs with each flag of `ldm_ray.chem.parent`."""


@dataclass(frozen=True)
class DrugMatches:
    """Which compound each drug of a table is.

    Attributes:
        compound_id: (drug, SMILES) of the table to its compound.
        ambiguous: Drugs whose name several compounds have.
        contradicted: Drugs whose name a compound has, but whose structure is another one.
        unreadable: Drugs whose SMILES RDKit cannot parse; they are matched by name.
    """

    compound_id: dict[tuple[str, str], int]
    ambiguous: tuple[str, ...]
    contradicted: tuple[str, ...]
    unreadable: tuple[str, ...]

    def notes(self) -> list[str]:
        """Return which drugs were not matched although their name is known, one sentence each."""
        said = {
            "drugs not matched, since several compounds have their name": self.ambiguous,
            "drugs not matched, since the compound of their name has another structure": self.contradicted,
            "drugs whose SMILES cannot be parsed, matched by name alone": self.unreadable,
        }
        return [f"{text}: {listing(drugs, SHOWN)}" for text, drugs in said.items() if drugs]


def match_drugs(rows: pd.DataFrame, dataset: PairedDataset) -> DrugMatches:
    """Match drugs: by parent structure; else by name, unless the structures differ in more than stereo.

    A name is matched exactly, else without case and punctuation, and only if all that bears it is one compound.

    Args:
        rows: Columns `drug` and `smiles` (see `GdscTable`).
        dataset: Its compounds are matched.
    """
    by_structure = {text: number for number, text in enumerate(dataset.parent_smiles)}
    bearers: dict[str, set[int]] = {}
    for number, names in enumerate(dataset.compounds["names"].to_pylist()):
        for name in names:
            bearers.setdefault(name, set()).add(number)
    # Names of drugs are spelled as variously as those of cell lines.
    known = CellNames(bearers)
    compound_id: dict[tuple[str, str], int] = {}
    ambiguous, contradicted, unreadable = set[str](), set[str](), set[str]()
    for drug, smiles in rows[["drug", "smiles"]].drop_duplicates().itertuples(index=False):
        structure = parse_compound(smiles)
        if smiles and structure is None:
            unreadable.add(drug)
        if structure and not structure.is_one_drug:
            continue
        if structure and structure.parent_smiles in by_structure:
            compound_id[drug, smiles] = by_structure[structure.parent_smiles]
            continue
        named = {number for name in known.candidates(drug) for number in bearers[name]}
        alike = {number for number in named if structure is None or structure.group == dataset.groups[number]}
        if len(alike) == 1:
            compound_id[drug, smiles] = alike.pop()
        elif named:
            (ambiguous if alike else contradicted).add(drug)
    return DrugMatches(compound_id, *(tuple(sorted(drugs)) for drugs in (ambiguous, contradicted, unreadable)))


def flag_notes(rows: pd.DataFrame) -> list[str]:
    """Return which drugs have a structure that is not simply theirs, one sentence for each flag.

    Args:
        rows: Columns `drug` and `smiles` (see `GdscTable`).
    """
    drugs: dict[str, list[str]] = {}
    for drug, smiles in rows[["drug", "smiles"]].drop_duplicates().itertuples(index=False):
        structure = parse_compound(smiles)
        if structure and structure.flag:
            drugs.setdefault(structure.flag, []).append(drug)
    return [f"{text}: {listing(sorted(drugs[flag]), SHOWN)}" for flag, text in FLAGGED.items() if flag in drugs]
