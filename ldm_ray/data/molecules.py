"""Drug-like molecules for the simulated release, enumerated from scaffolds and substituents.

Each mechanism has two scaffolds, so the mechanism of an unseen compound can be read off its structure. Only molecules
that RDKit parses are used.
"""

from dataclasses import dataclass

import numpy as np

from ldm_ray.chem.smiles import parse_compound

# Mechanism i has the scaffolds [2 i] and [2 i + 1]; {a} and {b} are the substituents.
SCAFFOLDS = (
    "c1cc({b})cc2c1ncnc2N{a}",
    "c1cc({b})cc2c1nccc2N{a}",
    "O=C(N{a})c1ccc({b})cc1",
    "O=C(N{a})c1ccc({b})nc1",
    "O=S(=O)(N{a})c1ccc({b})cc1",
    "O=S(=O)(N{a})c1ccc2cc({b})ccc2c1",
    "c1c({b})ccc2c1c(C{a})c[nH]2",
    "c1c({b})ccc2c1n({a})cn2",
    "O=C1N({a})C(=O)/C(=C/c2ccc({b})cc2)S1",
    "O=C1N({a})C(=S)S/C1=C/c1ccc({b})cc1",
    "Cn1c(=O)c2c(nc({b})n2{a})n(C)c1=O",
    "Cn1c(=O)n({a})c(=O)c2cc({b})ccc21",
    "O=c1cc({a})oc2cc({b})ccc12",
    "O=c1oc2cc({b})ccc2cc1{a}",
    "c1cc({b})ccc1N1CCN({a})CC1",
    "c1cc({b})ccc1C1CCN({a})CC1",
    "c1cc({b})ccc1-c1cc({a})n[nH]1",
    "c1cc({b})ccc1-c1nc({a})no1",
    "Nc1nc({a})c(-c2ccc({b})cc2)s1",
    "O=C(N{a})c1csc(-c2ccc({b})cc2)n1",
    "CC12CCC3c4ccc({b})cc4CCC3C1CCC2O{a}",
    "CC12CCC3C(CCC4=CC(=O)C({b})CC34C)C1CCC2{a}",
    "O=C(N{a})Nc1ccc({b})cc1",
    "O=C(Nc1ccc({b})cc1)N1CCC({a})CC1",
    "ONC(=O)C=Cc1ccc({b})c(O{a})c1",
    "ONC(=O)CCCC(C{a})C(=O)Nc1ccc({b})cc1",
    "c1cc({b})ccc1C(O)CN{a}",
    "c1cc({b})ccc1OCC(O)CN{a}",
    "c1ccc2c(c1)Sc1ccc({b})cc1N2C{a}",
    "c1ccc2c(c1)CCc1ccc({b})cc1N2C{a}",
    "c1({b})nc(N{a})c2ncn(C3CCCC3)c2n1",
    "c1({b})nc(N{a})c2cc[nH]c2n1",
)
N_MECHANISMS = len(SCAFFOLDS) // 2

SITE_A = (
    "C", "CC", "C(C)C", "CC(C)C", "C9CC9", "C9CCCC9", "C9CCCCC9", "CCO", "CCOC", "CC#N", "CC(F)(F)F",
    "c9ccccc9", "c9ccc(F)cc9", "c9ccc(OC)cc9", "c9cccnc9", "c9ccsc9", "Cc9ccccc9", "CCN9CCOCC9",
    "CCN(C)C", "C9CCOCC9", "C9CCNCC9", "CC(=O)N", "CCc9ccccc9", "c9ccc(Cl)c(Cl)c9",
)  # fmt: skip
SITE_B = (
    "F", "Cl", "Br", "C", "OC", "O", "N", "C#N", "C(F)(F)F", "OC(F)(F)F", "C(=O)N", "C(=O)OC", "C(=O)O",
    "S(=O)(=O)C", "S(=O)(=O)N", "N(C)C", "NC(C)=O", "C(C)(C)C", "OCC", "OCc8ccccc8", "c8ccccc8",
    "c8ccncc8", "N8CCOCC8", "N8CCN(C)CC8",
)  # fmt: skip
MAX_COMPOUNDS = len(SCAFFOLDS) * len(SITE_A) * len(SITE_B)


@dataclass(frozen=True)
class Molecules:
    """Chosen molecules and their building blocks (arrays of equal length)."""

    parent_smiles: np.ndarray
    mechanism: np.ndarray
    site_a: np.ndarray
    site_b: np.ndarray


def choose_molecules(n: int, n_mechanisms: int, generator: np.random.Generator) -> Molecules:
    """Draw `n` molecules of different connectivity whose scaffolds cover the first `n_mechanisms` mechanisms evenly."""
    per_scaffold = len(SITE_A) * len(SITE_B)
    codes = np.stack([generator.permutation(per_scaffold) for _ in range(2 * n_mechanisms)], axis=1)
    chosen: dict[str, tuple[str, int, int, int]] = {}
    for position, code in enumerate(codes.reshape(-1)):
        scaffold = position % (2 * n_mechanisms)
        a, b = divmod(int(code), len(SITE_B))
        compound = parse_compound(SCAFFOLDS[scaffold].format(a=SITE_A[a], b=SITE_B[b]))
        if compound is not None:
            chosen.setdefault(compound.group, (compound.parent_smiles, scaffold // 2, a, b))
        if len(chosen) == n:
            break
    smiles, *blocks = zip(*chosen.values(), strict=True)
    return Molecules(np.array(smiles), *(np.array(block) for block in blocks))
