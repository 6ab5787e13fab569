"""Datasets held out by cell line, plate, scaffold, and by two at once: nothing leaks, nothing is lost."""

from pathlib import Path

import numpy as np
import pytest

from ldm_ray.bundle.bundle import Bundle, check_splits
from ldm_ray.chem.scaffold import scaffold_of
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.resplit import held_out, resplit
from ldm_ray.data.validate import validate
from ldm_ray.errors import BundleError, DataError
from ldm_ray.storage.store import Store
from tests.conftest import World, small_config

IDS = ["profile_id", "compound_id", "cell_id", "plate", "split", "fold"]


@pytest.fixture(scope="module")
def original(world: World, tmp_path_factory: pytest.TempPathFactory) -> PairedDataset:
    return world.dataset


def test_scaffolds_are_rings_and_linkers_without_stereochemistry() -> None:
    assert scaffold_of("CC(=O)Oc1ccccc1C(=O)O") == "c1ccccc1"
    assert scaffold_of("OCC") == ""
    bare = "c1ccc(CNc2ccccc2)cc1"
    assert {scaffold_of(smiles) for smiles in ("C[C@H](Nc1ccccc1)c1ccccc1", "C[C@@H](Nc1ccc(Cl)cc1)c1ccccc1")} == {bare}


def test_all_compounds_of_a_scaffold_are_on_one_side(original: PairedDataset, tmp_path: Path) -> None:
    dataset = resplit(original, "scaffold", Store(str(tmp_path / "out")))
    wells = dataset.profiles(IDS).to_pandas()
    names = np.array([scaffold_of(parent) or parent for parent in dataset.parent_smiles])
    assert set(wells["split"]) == {"train", "valid", "test"}
    assert wells.groupby(names[wells["compound_id"]])["split"].nunique().max() == 1
    assert len(wells) == original.manifest["n_profiles"]
    assert not [finding for finding in validate(dataset) if finding.problems]
    by_compound = original.profiles(IDS).to_pandas()
    shared = [
        len(set(names[w["compound_id"][w["split"] == "train"]]) & set(names[w["compound_id"][w["split"] == "test"]]))
        for w in (wells, by_compound)
    ]
    assert shared[0] == 0


def test_sides_of_both() -> None:
    compound = np.array(["train", "train", "test", "test", "valid", "valid", "train"], dtype=object)
    cell = np.array(["train", "test", "train", "test", "train", "test", "valid"], dtype=object)
    sides = held_out({"split": compound, "cell_split": cell, "plate_split": cell}, "both")
    assert sides.tolist() == ["train", "", "", "test", "valid", "", "valid"]


@pytest.mark.parametrize("unseen", ["plate", "cell"])
def test_a_side_is_held_out_whole(original: PairedDataset, tmp_path: Path, unseen: str) -> None:
    column, unit = {"plate": ("plate_split", "plate"), "cell": ("cell_split", "cell_id")}[unseen]
    sides = original.profiles(["profile_id", column]).to_pandas().set_index("profile_id")[column]
    if set(sides) < {"train", "valid", "test"}:
        with pytest.raises(DataError, match=f"too few {unseen} groups to hold out"):
            resplit(original, unseen, Store(str(tmp_path / "out")))  # type: ignore[arg-type]
        return
    dataset = resplit(original, unseen, Store(str(tmp_path / "out")))  # type: ignore[arg-type]
    wells = dataset.profiles(IDS).to_pandas()
    assert sorted(wells["profile_id"]) == sorted(sides.index)
    assert (wells["split"].to_numpy() == sides[wells["profile_id"]].to_numpy()).all()
    assert wells.groupby(unit)["split"].nunique().max() == 1
    assert not [finding for finding in validate(dataset) if finding.problems]
    assert resplit(original, unseen, Store(str(tmp_path / "out"))).manifest == dataset.manifest  # type: ignore[arg-type]
    with pytest.raises(DataError, match="must be held out by compound"):
        resplit(dataset, "both", Store(str(tmp_path / "again")))
    bundle = Bundle("vae", small_config(), {"trained_on": {"splits": original.manifest["splits"]}}, {})
    with pytest.raises(BundleError, match="its test compounds leak"):
        check_splits(bundle, dataset.manifest["splits"], "data")
