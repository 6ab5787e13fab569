"""Counter-ions and solvents: parts of a written compound that are not the drug.

RDKit has two lists: `Salts.txt` of `SaltRemover`, and the patterns of `FragmentRemover`, with solvents. Neither has the
large organic counter-ions, of which pamoic acid and meglumine outweigh many drugs. `NAMED` adds them, and names the
common ones. Bases that are more often the drug than its counter-ion (piperazine, procaine, caffeine) are not in it.
"""

from functools import cache, lru_cache

from rdkit import Chem
from rdkit.Chem.MolStandardize import rdMolStandardize
from rdkit.Chem.SaltRemover import SaltRemover

NAMED = {
    "hydrochloric acid": "Cl",
    "hydrobromic acid": "Br",
    "hydroiodic acid": "I",
    "water": "O",
    "ammonia": "N",
    "lithium": "[Li+]",
    "sodium": "[Na+]",
    "potassium": "[K+]",
    "rubidium": "[Rb+]",
    "caesium": "[Cs+]",
    "magnesium": "[Mg+2]",
    "calcium": "[Ca+2]",
    "strontium": "[Sr+2]",
    "barium": "[Ba+2]",
    "nitric acid": "O[N+](=O)[O-]",
    "sulfuric acid": "OS(O)(=O)=O",
    "phosphoric acid": "OP(O)(O)=O",
    "carbonic acid": "OC(O)=O",
    "perchloric acid": "OCl(=O)(=O)=O",
    "tetrafluoroborate": "F[B-](F)(F)F",
    "hexafluorosilicate": "F[Si-2](F)(F)(F)(F)F",
    "thiocyanic acid": "SC#N",
    "methylsulfuric acid": "COS(O)(=O)=O",
    "formic acid": "OC=O",
    "acetic acid": "CC(O)=O",
    "trifluoroacetic acid": "OC(=O)C(F)(F)F",
    "glycolic acid": "OCC(O)=O",
    "lactic acid": "CC(O)C(O)=O",
    "oxalic acid": "OC(=O)C(O)=O",
    "malonic acid": "OC(=O)CC(O)=O",
    "succinic acid": "OC(=O)CCC(O)=O",
    "glutaric acid": "OC(=O)CCCC(O)=O",
    "adipic acid": "OC(=O)CCCCC(O)=O",
    "sebacic acid": "OC(=O)CCCCCCCCC(O)=O",
    "fumaric or maleic acid": "OC(=O)C=CC(O)=O",
    "malic acid": "OC(CC(O)=O)C(O)=O",
    "tartaric acid": "OC(C(O)C(O)=O)C(O)=O",
    "dibenzoyltartaric acid": "OC(=O)C(OC(=O)c1ccccc1)C(OC(=O)c1ccccc1)C(O)=O",
    "ditoluoyltartaric acid": "Cc1ccc(cc1)C(=O)OC(C(OC(=O)c1ccc(C)cc1)C(O)=O)C(O)=O",
    "citric acid": "OC(=O)CC(O)(CC(O)=O)C(O)=O",
    "gluconic acid": "OCC(O)C(O)C(O)C(O)C(O)=O",
    "glucoheptonic acid": "OCC(O)C(O)C(O)C(O)C(O)C(O)=O",
    "galactaric acid": "OC(C(O)C(O)C(O)=O)C(O)C(O)=O",
    "lactobionic acid": "OCC1OC(OC(C(O)CO)C(O)C(O)C(O)=O)C(O)C(O)C1O",
    "ascorbic acid": "OCC(O)C1OC(=O)C(O)=C1O",
    "benzoic acid": "OC(=O)c1ccccc1",
    "salicylic acid": "OC(=O)c1ccccc1O",
    "gentisic acid": "OC(=O)c1cc(O)ccc1O",
    "mandelic acid": "OC(C(O)=O)c1ccccc1",
    "hippuric acid": "OC(=O)CNC(=O)c1ccccc1",
    "nicotinic acid": "OC(=O)c1cccnc1",
    "orotic acid": "OC(=O)c1cc(=O)[nH]c(=O)[nH]1",
    "pyroglutamic acid": "OC(=O)C1CCC(=O)N1",
    "saccharin": "O=C1NS(=O)(=O)c2ccccc12",
    "8-chlorotheophylline": "CN1C(=O)N(C)c2nc(Cl)[nH]c2C1=O",
    "picric acid": "Oc1c(cc(cc1[N+]([O-])=O)[N+]([O-])=O)[N+]([O-])=O",
    "hybenzic acid": "OC(=O)c1ccccc1C(=O)c1ccc(O)cc1",
    "xinafoic acid": "OC(=O)c1ccc2ccccc2c1O",
    "3-hydroxy-2-naphthoic acid": "OC(=O)c1cc2ccccc2cc1O",
    "pamoic acid": "OC(=O)c1cc2ccccc2c(Cc2c(O)c(C(O)=O)cc3ccccc23)c1O",
    "lauric acid": "CCCCCCCCCCCC(O)=O",
    "palmitic acid": "CCCCCCCCCCCCCCCC(O)=O",
    "stearic acid": "CCCCCCCCCCCCCCCCCC(O)=O",
    "oleic acid": "CCCCCCCCC=CCCCCCCCC(O)=O",
    "dodecylsulfuric acid": "CCCCCCCCCCCCOS(O)(=O)=O",
    "methanesulfonic acid": "CS(O)(=O)=O",
    "ethanesulfonic acid": "CCS(O)(=O)=O",
    "ethanedisulfonic acid": "OS(=O)(=O)CCS(O)(=O)=O",
    "isethionic acid": "OCCS(O)(=O)=O",
    "cyclamic acid": "OS(=O)(=O)NC1CCCCC1",
    "camphorsulfonic acid": "CC1(C)C2CCC1(CS(O)(=O)=O)C(=O)C2",
    "benzenesulfonic acid": "OS(=O)(=O)c1ccccc1",
    "chlorobenzenesulfonic acid": "OS(=O)(=O)c1ccc(Cl)cc1",
    "toluenesulfonic acid": "Cc1ccc(cc1)S(O)(=O)=O",
    "sulfosalicylic acid": "OC(=O)c1cc(ccc1O)S(O)(=O)=O",
    "naphthalene-2-sulfonic acid": "OS(=O)(=O)c1ccc2ccccc2c1",
    "naphthalene-1,5-disulfonic acid": "OS(=O)(=O)c1cccc2c1cccc2S(O)(=O)=O",
    "aspartic acid": "NC(CC(O)=O)C(O)=O",
    "glutamic acid": "NC(CCC(O)=O)C(O)=O",
    "lysine": "NCCCCC(N)C(O)=O",
    "arginine": "NC(CCCNC(N)=N)C(O)=O",
    "edetic acid": "OC(=O)CN(CCN(CC(O)=O)CC(O)=O)CC(O)=O",
    "ethanolamine": "NCCO",
    "diethanolamine": "OCCNCCO",
    "triethanolamine": "OCCN(CCO)CCO",
    "diethylamine": "CCNCC",
    "triethylamine": "CCN(CC)CC",
    "tert-butylamine": "CC(C)(C)N",
    "dicyclohexylamine": "C1CCC(CC1)NC1CCCCC1",
    "ethylenediamine": "NCCN",
    "epolamine": "OCCN1CCCC1",
    "choline": "C[N+](C)(C)CCO",
    "tromethamine": "NC(CO)(CO)CO",
    "meglumine": "CNCC(O)C(O)C(O)C(O)CO",
    "eglumine": "CCNCC(O)C(O)C(O)C(O)CO",
    "benzathine": "C(CNCc1ccccc1)NCc1ccccc1",
    "benethamine": "C(CNCc1ccccc1)c1ccccc1",
    "hydrabamine": "CC(C)c1ccc2c(c1)CCC1C(C)(CNCCNCC3(C)CCCC4(C)c5ccc(cc5CCC34)C(C)C)CCCC21C",
}


def connectivity(molecule: Chem.Mol) -> str:
    """Return the first block of the InChIKey: atoms and bonds without stereo and isotopes; empty without an InChI."""
    return str(Chem.MolToInchiKey(molecule)).partition("-")[0]


def reread(smiles: str) -> Chem.Mol:
    """Parse a SMILES that RDKit wrote.

    Raises:
        ValueError: If RDKit cannot read it.
    """
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise ValueError(f"RDKit wrote {smiles} and cannot read it")
    return molecule


@lru_cache(maxsize=16_384)
def counter_ion(fragment: str) -> str:
    """Return what to call a counter-ion or solvent: its name, else its SMILES; empty if it is neither.

    Args:
        fragment: Canonical SMILES of one fragment.

    Raises:
        ValueError: If RDKit cannot read it.
    """
    molecule = reread(fragment)
    if name := _names().get(connectivity(molecule)):
        return name
    by_salts, by_fragments = _rdkit()
    known = (
        by_salts.StripMol(molecule, dontRemoveEverything=False).GetNumAtoms() == 0
        or by_fragments.remove(molecule).GetNumAtoms() == 0
    )
    return fragment if known else ""


@cache
def _names() -> dict[str, str]:
    return {connectivity(Chem.MolFromSmiles(smiles)): name for name, smiles in NAMED.items()}


@cache
def _rdkit() -> tuple[SaltRemover, rdMolStandardize.FragmentRemover]:
    return SaltRemover(), rdMolStandardize.FragmentRemover(leave_last=False)
