"""Molecules as pictures."""

from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D

from ldm_ray.errors import QueryError

MAX_DRAWN_ATOMS = 200


def draw_svg(smiles: str, width: int = 320, height: int = 220) -> str:
    """Draw a canonical SMILES on a transparent background.

    Raises:
        QueryError: If it is not a molecule, or too large to draw.
    """
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise QueryError("smiles must be a molecule that RDKit can parse")
    if molecule.GetNumAtoms() > MAX_DRAWN_ATOMS:
        raise QueryError(f"a drawing can have at most {MAX_DRAWN_ATOMS} atoms; got {molecule.GetNumAtoms()}")
    drawing = rdMolDraw2D.MolDraw2DSVG(width, height)
    drawing.drawOptions().clearBackground = False  # type: ignore[assignment]  # its stubs are wrong
    rdMolDraw2D.PrepareAndDrawMolecule(drawing, molecule)
    drawing.FinishDrawing()
    text: str = drawing.GetDrawingText()
    return text[text.index("<svg") :]
