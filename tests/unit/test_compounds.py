"""Parent structures: counter-ions, metals, mixtures, open ends, isotopes, stereo, and groups."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from ldm_ray.chem.counter_ions import NAMED, connectivity, counter_ion
from ldm_ray.chem.smiles import Compound, one_drug, parse_compound
from ldm_ray.errors import QueryError

PAMOIC = "OC(=O)c1cc2ccccc2c(Cc2c(O)c(C(=O)O)cc3ccccc23)c1O"
MEGLUMINE = "CNC[C@H](O)[C@@H](O)[C@H](O)[C@H](O)CO"
OLANZAPINE = "CN1CCN(CC1)C1=Nc2ccccc2Nc2sc(C)cc12"
TAFAMIDIS = "OC(=O)c1ccc2nc(oc2c1)-c1cc(Cl)cc(Cl)c1"
METFORMIN = "CN(C)C(=N)NC(N)=N"
PIPERAZINE = "C1CNCCN1"
CITRIC = "OC(=O)CC(O)(CC(O)=O)C(O)=O"
FLUOROPHENYL = "CN1CCN(c2ccc(F)cc2)CC1"
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def parsed(smiles: str) -> Compound:
    compound = parse_compound(smiles)
    assert compound is not None
    return compound


@pytest.mark.parametrize(
    ("written", "drug", "left_out"),
    [
        (f"CN1CCCN=C1/C=C/c1cccs1.{PAMOIC}", "CN1CCCN=C1/C=C/c1cccs1", "pamoic acid"),
        (f"{OLANZAPINE}.{PAMOIC}", OLANZAPINE, "pamoic acid"),
        (f"{METFORMIN}.{PAMOIC}", METFORMIN, "pamoic acid"),
        (f"{MEGLUMINE}.{TAFAMIDIS}", TAFAMIDIS, "meglumine"),
        (f"{TAFAMIDIS}.N", TAFAMIDIS, "ammonia"),
        (f"{METFORMIN}.Cc1ccc(cc1)S(=O)(=O)O", METFORMIN, "toluenesulfonic acid"),
        (f"{METFORMIN}.OC(=O)/C=C\\C(=O)O", METFORMIN, "fumaric or maleic acid"),
        (f"{PIPERAZINE}.{CITRIC}", PIPERAZINE, "citric acid"),
        (f"C[NH+](C)CCOC.{CITRIC.replace('O)=O', '[O-])=O', 1)}", "CN(C)CCOC", "citric acid"),
        ("CC(=O)O[Na]", "CC(=O)O", "sodium"),
        ("CCCC(CCC)C(=O)[O-].[Na+]", "CCCC(CCC)C(=O)O", "sodium"),
        (f"{FLUOROPHENYL}.CS(C)=O", FLUOROPHENYL, "CS(C)=O"),  # DMSO: RDKit knows it, we do not name it
        (f"{PIPERAZINE}.F[Si-2](F)(F)(F)(F)F", PIPERAZINE, "hexafluorosilicate"),
        (f"{FLUOROPHENYL}.CCCCCN", FLUOROPHENYL, "CCCCCN"),  # in no list, and smaller than a drug
    ],
)
def test_counter_ions_are_left_out_whatever_their_size(written: str, drug: str, left_out: str) -> None:
    compound = parsed(written)
    assert compound.parent_smiles == parsed(drug).parent_smiles
    assert (compound.flag, compound.left_out) == ("", (left_out,))
    assert compound.note == f"used {compound.parent_smiles}, left out {left_out}"
    assert one_drug(written) == compound


@pytest.mark.parametrize("name", NAMED)
def test_a_counter_ion_alone_is_a_compound_of_its_own(name: str) -> None:
    written = NAMED[name]
    assert counter_ion(Chem.CanonSmiles(written)) == name
    compound = parsed(written)
    assert compound.group == connectivity(Chem.MolFromSmiles(written))
    assert compound.left_out == ()
    assert compound.flag in ("", "metal")


def test_of_counter_ions_only_the_largest_organic_one_stays() -> None:
    assert parsed(f"[Na+].{CITRIC}").parent_smiles == parsed(CITRIC).parent_smiles
    assert parsed("C[N+](C)(C)CCO.[O-]C(=O)c1ccccc1O").parent_smiles == "O=C(O)c1ccccc1O"
    assert parsed(f"{MEGLUMINE}.{PAMOIC}").flag == ""  # both are drug-sized, and no mixture of drugs


@pytest.mark.parametrize("written", ["N.N.Cl[Pt]Cl", "[NH3]->[Pt](<-[NH3])(Cl)Cl", "[NH3+][Pt-2](Cl)(Cl)[NH3+]"])
def test_cisplatin_is_one_metal_compound_in_every_spelling(written: str) -> None:
    compound = parsed(written)
    assert (compound.flag, compound.group, compound.left_out) == ("metal", "LXZZYRPGZAFOLE", ())
    assert "metal compound" in one_drug(written).note


@pytest.mark.parametrize(
    "written", ["[Zn+2].[O-]n1ccccc1=S.[O-]n1ccccc1=S", "[Li+].[Li+].[O-]C([O-])=O", "O=[Sb]c1ccccc1", "[Au]S"]
)
def test_a_metal_that_acts_is_not_a_counter_ion(written: str) -> None:
    compound = parsed(written)
    assert (compound.flag, compound.parent_smiles) == ("metal", Chem.CanonSmiles(written))


@pytest.mark.parametrize("written", ["CC(C)C[C@H](NC(C)=O)B(O)O", "C[Se]C", "C[As](C)(=O)O", "C[Si](C)(C)C"])
def test_boron_and_its_like_are_no_metals(written: str) -> None:
    assert parsed(written).flag == ""


def test_two_drugs_are_a_mixture_and_two_enantiomers_are_not() -> None:
    assert parsed(f"{ASPIRIN}.{FLUOROPHENYL}").flag == "mixture"
    with pytest.raises(QueryError, match=r"must be one drug and its counter-ions; got CN1.* and CC\(=O\)O.*: ask for"):
        one_drug(f"{ASPIRIN}.{FLUOROPHENYL}")
    racemate = parsed("C[C@H](N)Cc1ccccc1.C[C@@H](N)Cc1ccccc1.OS(O)(=O)=O")
    assert (racemate.flag, racemate.group) == ("", parsed("CC(N)Cc1ccccc1").group)


@pytest.mark.parametrize("written", ["*OCCO*", "[*]c1ccccc1", "CC.[*]"])
def test_open_ends_are_refused(written: str) -> None:
    assert (parsed(written).flag, parsed(written).inchikey) == ("incomplete", "")
    assert parsed(written).group == parsed(written).parent_smiles
    with pytest.raises(QueryError, match=r"must be a whole molecule; got '.*', with an open end \(\*\)"):
        one_drug(written)


def test_isotopes_are_dropped_and_stereo_is_kept() -> None:
    assert parsed("[2H]C([2H])([2H])Oc1ccccc1").parent_smiles == "COc1ccccc1"
    assert parsed("[13CH3][C@]([2H])(O)c1ccccc1").parent_smiles == "C[C@H](O)c1ccccc1"
    assert parsed("C[C@]([2H])([H])O").parent_smiles == "CCO"  # stereo that deuterium alone made
    left, right, flat = (parsed(text) for text in ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "CC(N)C(=O)O"))
    assert len({left.parent_smiles, right.parent_smiles, flat.parent_smiles}) == 3
    assert left.group == right.group == flat.group == "QNAYBMKLOCPYGJ"
    assert parsed("C/C=C/C").group == parsed("C/C=C\\C").group


def test_tautomers_are_two_parents_and_one_group_where_inchi_unifies_them() -> None:
    one, other = parsed("Oc1ccccn1"), parsed("O=c1cccc[nH]1")
    assert one.parent_smiles != other.parent_smiles
    assert one.group == other.group
    keto, enol = parsed("CC(=O)CC(C)=O"), parsed("CC(=O)C=C(C)O")
    assert keto.group != enol.group


DRUGS = (OLANZAPINE, TAFAMIDIS, METFORMIN, FLUOROPHENYL, ASPIRIN)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(DRUGS), st.lists(st.sampled_from(sorted(NAMED)), max_size=4), st.randoms())
def test_no_salt_hides_its_drug(drug: str, salts: list[str], random) -> None:  # type: ignore[no-untyped-def]
    parts = [drug, *(NAMED[name] for name in salts)]
    random.shuffle(parts)
    compound = parsed(".".join(parts))
    assert (compound.parent_smiles, compound.flag) == (parsed(drug).parent_smiles, "")
    assert set(compound.left_out) == set(salts)
