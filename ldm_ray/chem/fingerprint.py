"""Morgan fingerprints: the structure of a molecule as bits."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from ldm_ray.errors import QueryError


class MorganEncoder:
    """Morgan bits with atom invariants (ECFP) or feature invariants (FCFP).

    Source: Rogers & Hahn 2010, doi:10.1021/ci100050t; computed by RDKit.
    """

    def __init__(self, kind: Literal["ecfp", "fcfp"] = "ecfp", radius: int = 2, n_bits: int = 2048) -> None:
        self.kind, self.radius, self.dim = kind, radius, n_bits

    @property
    def name(self) -> str:
        """For example `ecfp4-2048`; the number after the kind is the diameter."""
        return f"{self.kind}{2 * self.radius}-{self.dim}"

    @property
    def revision(self) -> str:
        """The hashing of RDKit's fingerprint generators; a test notices if RDKit ever changes it."""
        return "rdkit-morgan-generator-1"

    def encode(self, smiles: Sequence[str]) -> np.ndarray:
        """Return the bits as 0 and 1, shape (len(smiles), dim), float32.

        Raises:
            QueryError: If RDKit cannot parse one of them.
        """
        generator = self._generator()
        bits = np.zeros((len(smiles), self.dim), dtype=np.float32)
        for row, text in enumerate(smiles):
            molecule = Chem.MolFromSmiles(text)
            if molecule is None:
                raise QueryError(f"smiles must be a molecule that RDKit can parse; got {text!r}", field="smiles")
            bits[row] = generator.GetFingerprintAsNumPy(molecule)
        return bits

    def _generator(self) -> rdFingerprintGenerator.FingerprintGenerator64:
        invariants = (
            rdFingerprintGenerator.GetMorganFeatureAtomInvGen()
            if self.kind == "fcfp"
            else rdFingerprintGenerator.GetMorganAtomInvGen(includeRingMembership=True)
        )
        return rdFingerprintGenerator.GetMorganGenerator(
            radius=self.radius, fpSize=self.dim, atomInvariantsGenerator=invariants
        )
