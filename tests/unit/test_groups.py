"""One drug in several spellings is on one side of everything, and flagged compounds are counted."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ldm_ray.bundle.bundle import Bundle, check_splits
from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.describe import count_groups, describe
from ldm_ray.data.groups import straddling
from ldm_ray.data.migrate import migrate
from ldm_ray.data.parts import write_wells
from ldm_ray.data.prepare import prepare
from ldm_ray.data.releases.l1000 import read_l1000
from ldm_ray.data.releases.release import Release
from ldm_ray.data.resplit import with_column
from ldm_ray.data.splits import split_of
from ldm_ray.data.validate import validate
from ldm_ray.data.wells import Wells, open_wells
from ldm_ray.errors import BundleError, DataError
from ldm_ray.evaluation.baselines.neighbours import Neighbours
from ldm_ray.evaluation.ic50.rows import Ic50Counts, Ic50Rows, split_rows
from ldm_ray.storage.store import Store
from tests.conftest import World, small_config

SPELLINGS = ["C[C@H](N)Cc1ccccc1", "C[C@@H](N)Cc1ccccc1.Cl", "CC(N)Cc1ccccc1"]
GROUP = "KWTSXDURSIMDCE"
CISPLATIN, MIXTURE, POLYMER = "N.N.Cl[Pt]Cl", "CC(=O)Oc1ccccc1C(=O)O.CN1CCN(c2ccc(F)cc2)CC1", "*OCCO*"


@pytest.fixture(scope="module")
def release(world: World) -> Release:
    """The simulated release with six of its compounds replaced."""
    files = world.files
    plain = read_l1000(files.gctx, files.inst_info, files.pert_info, files.gene_info)
    first = world.dataset.compounds["source_ids"].to_pylist()[:6]
    smiles = dict(zip((ids[0] for ids in first), [*SPELLINGS, CISPLATIN, MIXTURE, POLYMER], strict=True))
    wells = plain.wells
    return replace(plain, wells=wells.assign(smiles=wells["source_id"].map(smiles).fillna(wells["smiles"])))


@pytest.fixture(scope="module")
def spelled(release: Release, tmp_path_factory: pytest.TempPathFactory) -> PairedDataset:
    root = str(tmp_path_factory.mktemp("spelled") / "data")
    prepare(release, root, small_config())
    return open_dataset(root)


@pytest.fixture
def copy(spelled: PairedDataset, tmp_path: Path) -> Path:
    return Path(shutil.copytree(spelled.url, tmp_path / "data"))


def problems(root: Path) -> list[str]:
    return [text for finding in validate(open_dataset(str(root))) for text in finding.problems]


def test_spellings_of_one_drug_are_compounds_on_one_side_and_in_one_fold(spelled: PairedDataset) -> None:
    rows = spelled.compounds.to_pandas().query("group == @GROUP")
    assert len(set(rows["parent_smiles"])) == 3
    settings = small_config().splits
    assert {split_of(parent, "compound", settings) for parent in rows["parent_smiles"]} == {"valid", "train"}
    wells = spelled.profiles(["compound_id", "split", "fold", "condition_id"]).to_pandas()
    own = wells[wells["compound_id"].isin(rows["compound_id"])]
    assert set(own["split"]) == {split_of(GROUP, "compound", settings)}
    assert own["fold"].nunique() == 1
    assert own.groupby("condition_id")["compound_id"].nunique().max() == 1
    assert not [finding for finding in validate(spelled) if finding.problems]


def test_rare_is_a_drug_and_not_a_spelling(release: Release, tmp_path: Path) -> None:
    most = release.wells["source_id"].map(release.wells["source_id"].value_counts())[release.wells["kind"] == "trt_cp"]
    limit = int(most.max()) + 1
    prepare(release, str(tmp_path), small_config(f"cleaning.min_profiles_per_compound={limit}"))
    assert set(open_dataset(str(tmp_path)).groups) == {GROUP}


def test_flagged_compounds_are_dropped_and_counted_or_kept(
    release: Release, spelled: PairedDataset, tmp_path: Path
) -> None:
    (step,) = (step for step in spelled.manifest["cleaning"] if step["rule"].startswith("one whole molecule"))
    assert step["rule"] == "one whole molecule: no mixture of drugs, no open end (*)"
    assert step["removed"] > 0
    assert {flag for flag in spelled.compounds["flag"].to_pylist() if flag} == {"metal"}
    config = small_config("cleaning.keep_flagged=[mixture,incomplete]", "cleaning.min_profiles_per_compound=1")
    manifest = prepare(release, str(tmp_path), config)
    kept = open_dataset(str(tmp_path))
    assert manifest["cleaning"][3]["rule"] == "one whole molecule: no metal"
    assert {flag for flag in kept.compounds["flag"].to_pylist() if flag} == {"mixture", "incomplete"}
    assert POLYMER in kept.groups  # it has no InChIKey
    assert not [finding for finding in validate(kept) if finding.problems]


def test_describe_counts_groups(spelled: PairedDataset, world: World) -> None:
    counts = count_groups(spelled)
    assert counts["groups"] == len(spelled.compounds) - 2
    assert (counts["several_spellings"], counts["on_two_sides"], counts["flagged"]) == (1, 0, {"metal": 1})
    rows = describe(spelled)[0].rows
    assert ["groups of several spellings", "1", ""] in rows
    assert ["compounds flagged metal", "1", ""] in rows
    assert count_groups(world.dataset)["groups"] == len(world.dataset.compounds)  # the simulator draws no twins


def straddle(root: Path) -> None:
    """Move one of the three spellings from the test side to the training side."""
    compounds = pq.read_table(root / "compounds.parquet").to_pandas()
    moved = compounds.loc[compounds["group"] == GROUP, "compound_id"].iloc[0]
    manifest = json.loads((root / "manifest.json").read_text())
    for number, entry in enumerate(manifest["files"]):
        table = pq.read_table(root / entry["path"])
        own = table["compound_id"].to_numpy() == moved
        for name, value in (("split", "train"), ("fold", np.int8(0))):
            table = with_column(table, name, np.where(own, value, table[name].to_numpy(zero_copy_only=False)))
        manifest["files"][number] = write_wells(Store(str(root)), entry["path"], table)
    (root / "manifest.json").write_text(json.dumps(manifest))


def test_a_straddling_group_fails_validation(copy: Path) -> None:
    straddle(copy)
    assert f"group of compounds {GROUP} is on two sides of split" in problems(copy)
    assert count_groups(open_dataset(str(copy)))["on_two_sides"] == 1


def test_a_group_in_two_folds_is_found() -> None:
    wells = pd.DataFrame({"group": ["a", "a", "b", "b"], "split": ["train", "train", "test", "test"], "fold": 0})
    assert straddling(wells, "compound") == {"split": [], "fold": []}
    assert straddling(wells.assign(fold=[0, 1, -1, -1]), "compound") == {"split": [], "fold": ["a"]}
    sides = wells.assign(split=["train", "valid", "train", "test"])
    assert straddling(sides, "compound")["split"] == ["a", "b"]
    assert straddling(sides, "both")["split"] == ["b"]  # a validation well may share its compound with training
    assert straddling(sides, "cell")["split"] == []


def test_a_group_that_is_not_its_compounds_is_found(copy: Path) -> None:
    table = pq.read_table(copy / "compounds.parquet")
    groups = ["X", *table["group"].to_pylist()[1:]]
    pq.write_table(with_column(table, "group", np.array(groups)), copy / "compounds.parquet")
    assert any("must be" in text and "got X" in text for text in problems(copy))


def as_version_2(root: Path, **columns: list[str]) -> None:
    """Write a dataset as version 2 did: no groups and flags, compounds split by parent SMILES."""
    table = pq.read_table(root / "compounds.parquet").drop_columns(["group", "flag"])
    for name, values in columns.items():
        table = with_column(table, name, np.array(values))
    pq.write_table(table, root / "compounds.parquet")
    manifest = json.loads((root / "manifest.json").read_text())
    del manifest["splits"]["unit"]
    (root / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 2}))


def test_version_2_keeps_its_wells_and_splits_where_no_drug_straddles(copy: Path, spelled: PairedDataset) -> None:
    as_version_2(copy)
    with pytest.raises(DataError, match="schema version 2; .* reads 4: run `ldm-ray data migrate"):
        open_dataset(str(copy))
    assert migrate(str(copy))
    assert problems(copy) == []
    migrated = open_dataset(str(copy))
    assert migrated.compounds.equals(spelled.compounds)
    columns = ["profile_id", "batch", "compound_id", "split", "fold"]
    assert migrated.profiles(columns).equals(spelled.profiles(columns))
    assert not migrate(str(copy))


def test_version_2_is_refused_where_its_compounds_have_to_be_read_again(copy: Path) -> None:
    compounds = pq.read_table(copy / "compounds.parquet").to_pandas()
    straddle(copy)
    as_version_2(copy)
    before = (copy / "compounds.parquet").read_bytes()
    with pytest.raises(
        DataError, match=r"spellings of one drug are on two sides of split, for example C.* and C.* \(1 in all\)"
    ):
        migrate(str(copy))
    pamoic = ["O=C(O)c1cc2ccccc2c(Cc2c(O)c(C(=O)O)cc3ccccc23)c1O", *compounds["parent_smiles"][1:]]
    salt = [f"{compounds['parent_smiles'][0]}.{pamoic[0]}", *compounds["smiles"][1:]]
    assert before == (copy / "compounds.parquet").read_bytes()
    table = pq.read_table(copy / "compounds.parquet")
    for name, values in (("parent_smiles", pamoic), ("smiles", salt)):
        table = with_column(table, name, np.array(values))
    pq.write_table(table, copy / "compounds.parquet")
    with pytest.raises(DataError, match=r"was read as O=C\(O\)c1cc2.* and is now .*: run `ldm-ray prepare` on the"):
        migrate(str(copy))


def test_a_model_of_another_unit_of_the_split_is_refused(spelled: PairedDataset) -> None:
    splits = spelled.manifest["splits"]
    older = {key: value for key, value in splits.items() if key != "unit"}
    bundle = Bundle("vae", small_config(), {"trained_on": {"splits": older}}, {})  # type: ignore[typeddict-item]
    with pytest.raises(BundleError, match="'unit': 'parent'.* has .*'unit': 'group'.*: its test compounds leak"):
        check_splits(bundle, splits, "data")
    check_splits(bundle, older, "data")  # type: ignore[arg-type]
    by_cell = Bundle("vae", small_config(), {"trained_on": {"splits": older | {"by": "cell"}}}, {})  # type: ignore[typeddict-item]
    check_splits(by_cell, splits | {"by": "cell"}, "data")


def test_wells_know_their_group(spelled: PairedDataset) -> None:
    side = split_of(GROUP, "compound", small_config().splits)
    index = open_wells(spelled, side).index
    own = index[spelled.groups[index["compound_id"]] == GROUP]
    assert own["compound_id"].nunique() == 3
    assert own["group_id"].nunique() == 1
    others = index.drop(own.index)
    assert (others["group_id"] == others["compound_id"]).all()


def test_a_group_is_one_neighbour() -> None:
    """Two spellings of one drug do not take two of three places."""
    bits = np.packbits(np.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]], bool), axis=1)
    frame = pd.DataFrame({"compound_id": [0, 1, 2, 3], "group_id": [0, 0, 2, 3], "cell_id": 0})
    zero = np.zeros((4, 1), np.float32)
    train = Wells(frame, zero, zero, zero, np.ones(4, bool))
    neighbours = Neighbours(bits, k=3)
    neighbours.add(train, np.array([[1.0], [2.0], [4.0], [8.0]], np.float32))
    neighbours.finish()
    asked = Wells(
        pd.DataFrame({"compound_id": [4], "group_id": [4], "cell_id": [0]}), *[zero[:1]] * 3, np.ones(1, bool)
    )
    assert neighbours.predict(asked)[0, 0] == pytest.approx(15 / 4)


def test_ic50_holds_out_a_drug_in_all_its_spellings() -> None:
    groups = [f"G{number // 2}" for number in range(40)]
    frame = pd.DataFrame({"cell_line": "A", "drug": [f"d{n}" for n in range(40)], "smiles": "C", "group": groups})
    counts = Ic50Counts(40, 0, 0, 0, 40, 1, 40, 40)
    rows = Ic50Rows(frame.assign(ln_ic50_um=0.0), np.zeros((1, 2)), np.zeros(40, np.int64), counts)
    sides = pd.Series(split_rows(rows, "drug", 0))
    assert set(sides) == {"train", "valid", "test"}
    assert sides.groupby(groups).nunique().max() == 1
