"""The parent structure: which part of a written compound is the drug.

The rules, in order:

1. Isotope labels are removed: a labelled drug is the drug.
2. A molecule with `*` (a polymer's repeat unit, an R group) is not whole: it stays as written, flag `incomplete`.
3. A molecule with a metal stays as written, flag `metal`, since a SMILES does not say which parts are ligands; only
   dative bonds are cut, so that `[NH3]->[Pt]` and `N.[Pt]` are one. Metals are RDKit's; alkali and alkaline-earth
   metals are counter-ions instead, with ionic bonds, if there is an organic part (lithium carbonate has none).
4. Counter-ions and solvents (`counter_ions.py`) are left out, unless nothing else is there.
5. Of the rest, the parent is a part with carbon before one without, then the part with the most heavy atoms, then
   the heaviest, then the first by SMILES. If two different parts have `DRUG_SIZED` heavy atoms or more, the flag is
   `mixture`: the compound is two drugs, or a drug and a counter-ion that is in no list.
6. The parent is neutralised where protons suffice.

Stereo is kept. Tautomers and ring-chain forms are not unified, but see `Compound.group`.
"""

from dataclasses import dataclass
from functools import cache, reduce
from typing import Literal

from rdkit import Chem
from rdkit.Chem import rdqueries
from rdkit.Chem.MolStandardize import rdMolStandardize

from ldm_ray.chem.counter_ions import connectivity, counter_ion, reread

Flag = Literal["", "metal", "mixture", "incomplete"]
DRUG_SIZED = 10
"""Heavy atoms of the smallest part that may be a drug of its own; unknown smaller parts are left out."""
SALT_METALS = frozenset({"Li", "Na", "K", "Rb", "Cs", "Be", "Mg", "Ca", "Sr", "Ba"})


@dataclass(frozen=True)
class Parent:
    """The chosen part: the molecule, its flag, and the names (else SMILES) of the parts left out."""

    molecule: Chem.Mol
    flag: Flag
    left_out: tuple[str, ...] = ()


def parent_of(molecule: Chem.Mol) -> Parent:
    """Choose the parent structure of a sanitised molecule.

    Raises:
        ValueError, RuntimeError: If RDKit cannot standardise it.
    """
    if any(atom.GetIsotope() for atom in molecule.GetAtoms()):
        # Written and read again, explicit hydrogens go, and so does stereo that a label alone made.
        molecule = reread(Chem.MolToSmiles(rdMolStandardize.IsotopeParent(molecule, skipStandardize=True)))
    if any(atom.GetAtomicNum() == 0 for atom in molecule.GetAtoms()):
        return Parent(molecule, "incomplete")
    metals = [atom.GetSymbol() for atom in molecule.GetAtomsMatchingQuery(rdqueries.MAtomQueryAtom())]
    if metals and not (SALT_METALS.issuperset(metals) and molecule.HasSubstructMatch(_organic())):
        return Parent(_without_dative_bonds(molecule), "metal")
    if metals:
        molecule = rdMolStandardize.MetalDisconnector().Disconnect(molecule)
    return _largest(molecule)


def _largest(molecule: Chem.Mol) -> Parent:
    """Choose among the parts of a molecule without `*` and complexes."""
    parts = {Chem.MolToSmiles(part): part for part in Chem.GetMolFrags(molecule, asMols=True)}
    if len(parts) == 1:
        return Parent(_neutral(molecule), "")
    drugs = [part for text, part in parts.items() if not counter_ion(text)]
    large = {connectivity(part) or Chem.MolToSmiles(part) for part in drugs if part.GetNumHeavyAtoms() >= DRUG_SIZED}
    chosen = _chooser().choose(reduce(Chem.CombineMols, drugs or parts.values()))
    own = Chem.MolToSmiles(chosen)
    left_out = tuple(counter_ion(text) or text for text in parts if text != own)
    return Parent(_neutral(chosen), "mixture" if len(large) > 1 else "", left_out)


def _neutral(molecule: Chem.Mol) -> Chem.Mol:
    return rdMolStandardize.ChargeParent(molecule, skipStandardize=True)


@cache
def _organic() -> Chem.Mol:
    """Carbon bonded to hydrogen or carbon."""
    return Chem.MolFromSmarts("[$([#6;!H0]),$([#6]~[#6])]")


@cache
def _chooser() -> rdMolStandardize.LargestFragmentChooser:
    settings = rdMolStandardize.CleanupParameters()
    settings.preferOrganic = True  # type: ignore[assignment]  # its stubs are wrong
    settings.largestFragmentChooserCountHeavyAtomsOnly = True  # type: ignore[assignment]  # as above
    return rdMolStandardize.LargestFragmentChooser(settings)


def _without_dative_bonds(molecule: Chem.Mol) -> Chem.Mol:
    dative = [bond for bond in molecule.GetBonds() if bond.GetBondType() == Chem.BondType.DATIVE]
    if not dative:
        return molecule
    edited = Chem.RWMol(molecule)
    for begin, end in [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in dative]:
        edited.RemoveBond(begin, end)
    return reread(Chem.MolToSmiles(edited))
