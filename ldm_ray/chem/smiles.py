"""Molecules as text: parsing, parent structures, and texts that stand for a missing molecule."""

from dataclasses import dataclass
from functools import lru_cache

from rdkit import Chem, RDLogger
from rdkit.Chem.MolStandardize import rdMolStandardize

from ldm_ray.errors import QueryError

MAX_SMILES_LENGTH = 2_000
MAX_ATOMS = 500
"""Without hydrogens. RDKit cannot be interrupted, and InChI takes more than a second for a cage of 1000 atoms."""
NO_MOLECULE = f"smiles must be a molecule that RDKit can parse, of at most {MAX_ATOMS} atoms"
NOT_A_SMILES = frozenset({"", "-666", "-666.0", "restricted", "nan", "none", "na", "n/a"})


@dataclass(frozen=True)
class Compound:
    """A parsed molecule: its canonical form and its parent structure's."""

    smiles: str
    parent_smiles: str
    inchikey: str


@lru_cache(maxsize=65_536)
def parse_compound(smiles: str) -> Compound | None:
    """Return a molecule's canonical and parent forms, or None if RDKit cannot parse it or it is too large.

    The parent is the largest fragment, neutralised, written as canonical isomeric SMILES: a drug and its
    salts share one parent.
    """
    text = smiles.strip()
    if text.lower() in NOT_A_SMILES or len(text) > MAX_SMILES_LENGTH:
        return None
    with _quiet_rdkit():
        molecule = Chem.MolFromSmiles(text)
        if molecule is None or not 0 < molecule.GetNumAtoms() <= MAX_ATOMS:
            return None
        try:
            parent = rdMolStandardize.ChargeParent(molecule, skipStandardize=True)
            canonical, parent_smiles = Chem.MolToSmiles(molecule), Chem.MolToSmiles(parent)
            inchikey = Chem.MolToInchiKey(parent)
        except (ValueError, RuntimeError):
            return None
    return Compound(canonical, parent_smiles, inchikey) if parent_smiles else None


def parent_smiles(smiles: str) -> str:
    """Return the parent structure of a molecule.

    Raises:
        QueryError: If RDKit cannot parse it, or it is too large.
    """
    compound = parse_compound(smiles)
    if compound is None:
        shown = smiles if len(smiles) <= 60 else smiles[:57] + "..."
        raise QueryError(f"{NO_MOLECULE}; got {shown!r}", field="smiles")
    return compound.parent_smiles


class _quiet_rdkit:
    """Keep RDKit's parse errors off standard error; we count and report failures ourselves."""

    def __enter__(self) -> None:
        RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]  # absent from its stubs

    def __exit__(self, *_: object) -> None:
        RDLogger.EnableLog("rdApp.*")  # type: ignore[attr-defined]
