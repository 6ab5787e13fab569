"""Molecules as text: parsing, parent structures, and texts that stand for a missing molecule."""

from dataclasses import dataclass
from functools import cache, lru_cache

from rdkit import Chem, RDLogger

from ldm_ray.chem.parent import Flag, parent_of
from ldm_ray.errors import QueryError

MAX_SMILES_LENGTH = 2_000
MAX_ATOMS = 500
"""Without hydrogens. RDKit cannot be interrupted, and InChI takes more than a second for a cage of 1000 atoms."""
NO_MOLECULE = f"smiles must be a molecule that RDKit can parse, of at most {MAX_ATOMS} atoms"
NOT_A_SMILES = frozenset({"", "-666", "-666.0", "restricted", "nan", "none", "na", "n/a"})


@dataclass(frozen=True)
class Compound:
    """A parsed molecule: its canonical form and its parent structure's.

    Attributes:
        smiles: Canonical form of what was written.
        parent_smiles: The parent structure, canonical, with stereo; see `ldm_ray.chem.parent`.
        inchikey: The parent's; empty if InChI cannot name it.
        flag: Why the parent may not stand for the compound; empty if it does.
        left_out: Names (else SMILES) of the parts that are not in the parent.
    """

    smiles: str
    parent_smiles: str
    inchikey: str
    flag: Flag = ""
    left_out: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """Name of the compounds that a model may not tell apart: stereoisomers, and tautomers that InChI unifies."""
        return group_of(self.parent_smiles, self.inchikey)

    @property
    def is_one_drug(self) -> bool:
        """Whether the parent stands for the whole compound; not for mixtures, or molecules with open ends."""
        return self.flag in ("", "metal")

    @property
    def note(self) -> str:
        """Say which part was used, and what an encoder cannot know of it; empty if there is nothing to say."""
        notes = [f"used {self.parent_smiles}, left out {' and '.join(self.left_out)}"] if self.left_out else []
        if self.flag == "metal":
            notes.append("metal compound: its SMILES does not tell reliably what is bound")
        return "; ".join(notes)


def group_of(parent_smiles: str, inchikey: str) -> str:
    """Return the first block of a parent's InChIKey (its connectivity), or the parent itself if it has none."""
    return inchikey.partition("-")[0] or parent_smiles


@lru_cache(maxsize=65_536)
def parse_compound(smiles: str) -> Compound | None:
    """Return a molecule's canonical and parent forms, or None if RDKit cannot parse it or it is too large.

    A drug and its salts share one parent, written as canonical isomeric SMILES.
    """
    text = smiles.strip()
    if text.lower() in NOT_A_SMILES or len(text) > MAX_SMILES_LENGTH:
        return None
    with _quiet_rdkit():
        molecule = Chem.MolFromSmiles(text, _whole_text())
        if molecule is None or not 0 < molecule.GetNumAtoms() <= MAX_ATOMS:
            return None
        try:
            parent = parent_of(molecule)
            canonical, parent_smiles = Chem.MolToSmiles(molecule), Chem.MolToSmiles(parent.molecule)
            inchikey = Chem.MolToInchiKey(parent.molecule)
        except (ValueError, RuntimeError):
            return None
    return Compound(canonical, parent_smiles, inchikey, parent.flag, parent.left_out) if parent_smiles else None


@cache
def _whole_text() -> Chem.SmilesParserParams:
    """Return settings with which nothing may follow a SMILES but its CXSMILES; else `CCO CCN` would be read as CCO."""
    settings = Chem.SmilesParserParams()
    settings.parseName = False  # type: ignore[assignment]  # its stubs are wrong
    return settings


def one_drug(smiles: str) -> Compound:
    """Return the compound that a model is asked about.

    Raises:
        QueryError: If RDKit cannot parse it, it is too large, has an open end (`*`), or holds more than one drug.
    """
    compound = parse_compound(smiles)
    shown = smiles if len(smiles) <= 60 else smiles[:57] + "..."
    if compound is None:
        raise QueryError(f"{NO_MOLECULE}; got {shown!r}", field="smiles")
    if compound.flag == "incomplete":
        raise QueryError(f"smiles must be a whole molecule; got {shown!r}, with an open end (*)", field="smiles")
    if compound.flag == "mixture":
        parts = " and ".join([compound.parent_smiles, *compound.left_out])
        raise QueryError(
            f"smiles must be one drug and its counter-ions; got {parts}: ask for each alone", field="smiles"
        )
    return compound


class _quiet_rdkit:
    """Keep RDKit's parse errors off standard error; we count and report failures ourselves."""

    def __enter__(self) -> None:
        RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]  # absent from its stubs

    def __exit__(self, *_: object) -> None:
        RDLogger.EnableLog("rdApp.*")  # type: ignore[attr-defined]
