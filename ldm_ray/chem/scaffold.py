"""The ring systems and linkers of a molecule, without its substituents."""

from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold


def scaffold_of(smiles: str) -> str:
    """Return the scaffold as SMILES without stereochemistry; empty for a molecule without rings.

    Source: Bemis & Murcko 1996, doi:10.1021/jm9602928; computed by RDKit.
    """
    molecule = Chem.MolFromSmiles(smiles)
    Chem.RemoveStereochemistry(molecule)
    return str(Chem.MolToSmiles(MurckoScaffold.GetScaffoldForMol(molecule)))
