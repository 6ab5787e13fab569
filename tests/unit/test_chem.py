"""Molecules: parents, texts that are not molecules, and stable fingerprints."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_ray.chem.fingerprint import MorganEncoder
from ldm_ray.chem.smiles import one_drug, parse_compound
from ldm_ray.console import console, show_table
from ldm_ray.errors import QueryError

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
GOLDEN = {
    "ecfp": [389, 456, 650, 695, 807, 909, 1017, 1035, 1047, 1057, 1088, 1199, 1380, 1410, 1447, 1468, 1616, 1729,
             1750, 1775, 1873, 1917, 1970, 1991],
    "fcfp": [0, 1, 2, 4, 32, 33, 321, 535, 598, 626, 809, 1001, 1048, 1083, 1085, 1405, 1502, 1950, 1979, 1990, 2017,
             2040],
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "parent"),
    [
        (ASPIRIN, ASPIRIN),
        ("OC(=O)c1ccccc1OC(C)=O", ASPIRIN),
        ("CC(=O)Oc1ccccc1C(=O)[O-].[Na+]", ASPIRIN),
        ("C[NH3+].[Cl-]", "CN"),
        ("N[C@@H](C)C(=O)O", "C[C@H](N)C(=O)O"),
        ("C[C@H](O)F |o1:1|", "C[C@H](O)F"),
    ],
)
def test_parent_is_the_neutral_largest_fragment(text: str, parent: str) -> None:
    assert one_drug(text).parent_smiles == parent


@pytest.mark.parametrize(
    "text",
    ["", " ", "-666", "-666.0", "restricted", "nan", "C1CC(", "[Xx]C", "c1ccc", "C" * 3000, "CCO CCN", "CCO\tethanol"],
)
def test_what_is_not_a_molecule(text: str) -> None:
    assert parse_compound(text) is None
    with pytest.raises(QueryError, match="smiles must be a molecule"):
        one_drug(text)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="CNOcn1()=[]#@+-/\\.%23Clr*:>HX \u00e9\U0001f600", max_size=40))
def test_any_text_is_a_molecule_or_none(text: str) -> None:
    compound = parse_compound(text)
    if compound is not None:
        assert MorganEncoder(n_bits=64).encode([compound.parent_smiles]).shape == (1, 64)
        again = parse_compound(compound.parent_smiles)
        assert again is not None
        assert (again.parent_smiles, again.group) == (compound.parent_smiles, compound.group)


def test_fingerprints_are_golden() -> None:
    """Bits of aspirin from RDKit 2026.9.1; if RDKit ever hashes differently, the encoder's revision must change."""
    bits = {kind: np.flatnonzero(MorganEncoder(kind).encode([ASPIRIN])[0]).tolist() for kind in ("ecfp", "fcfp")}  # type: ignore[arg-type]
    assert bits == GOLDEN


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    encoder = MorganEncoder()
    np.testing.assert_array_equal(encoder.encode(["CCO", ASPIRIN])[1:], encoder.encode([ASPIRIN]))


def test_smiles_are_printed_as_they_are() -> None:
    """Brackets are markup to rich, and atoms to a chemist."""
    smiles = "Cc1c[nH]c2cc[n+](C)cc12"
    with console.capture() as said:
        console.print(smiles, markup=False)
    assert smiles in said.get()


def test_tables_show_smiles_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    smiles = "Cc1c[nH]c2cc[n+](C)cc12"
    show_table(smiles, ["smiles"], [[smiles]], smiles)
    assert capsys.readouterr().err.count(smiles) == 3
