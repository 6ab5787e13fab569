"""Cleaning, pairing, splits, and a dataset that is written completely or not at all."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ldm_ray.data.cleaning import condition_ids
from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.describe import count_groups, describe
from ldm_ray.data.pairing import batch_of, pair
from ldm_ray.data.prepare import prepare
from ldm_ray.data.releases.h5ad import read_h5ad
from ldm_ray.data.releases.l1000 import read_l1000
from ldm_ray.data.splits import split_of
from ldm_ray.data_settings import PairingSettings, SplitSettings
from ldm_ray.errors import DataError, LdmRayError, StoreError
from ldm_ray.evaluation.baselines.truth import planted_world
from ldm_ray.schema import profiles_schema
from ldm_ray.storage.store import Store, matrix
from tests.conftest import World, small_config


def release_of(world: World):  # type: ignore[no-untyped-def]
    files = world.files
    return read_l1000(files.gctx, files.inst_info, files.pert_info, files.gene_info)


def test_every_rule_removes_what_the_simulator_planted(world: World) -> None:
    planted = json.loads((world.files.gctx.parent / "simulation.json").read_text())["planted"]
    manifest = world.dataset.manifest
    removed = {step["rule"]: step["removed"] for step in manifest["cleaning"]}
    assert removed["dose and time known and above 0"] == planted["no_dose"]
    assert removed["SMILES that RDKit parses (ii)"] == planted["unparsable_smiles"]
    assert removed["compounds with at least 5 profiles in all spellings (i)"] == planted["rare_compound"]
    assert removed["a DMSO well of the same cell line and time (iii)"] == planted["no_control"]
    assert manifest["n_profiles"] == planted["treated_wells"] == 1200
    assert manifest["counts"]["duplicate_instance_ids"] == planted["duplicate_instance"]
    assert manifest["pairing_levels"].keys() == {"plate", "batch"}
    assert sum(file["rows"] for file in manifest["files"]) == 1200


def test_tables_keep_their_contract(world: World) -> None:
    dataset = world.dataset
    frame = dataset.profiles(
        ["profile_id", "basal_id", "reserved_basal_id", "compound_id", "split", "fold"]
    ).to_pandas()
    assert frame["profile_id"].is_unique
    assert dataset.basal["basal_id"].to_pylist() == list(range(len(dataset.basal)))
    roles = np.array(dataset.basal["role"].to_pylist())
    assert set(roles[frame["basal_id"]]) == {"input"}
    assert set(roles[frame["reserved_basal_id"][frame["reserved_basal_id"] >= 0]]) == {"reserved"}
    assert ((frame["fold"] == -1) == (frame["split"] == "test")).all()
    sides = frame.groupby("compound_id")["split"].nunique()
    assert (sides == 1).all()
    assert len(set(dataset.parent_smiles)) == len(dataset.parent_smiles)


def test_basal_is_the_mean_of_the_plates_unreserved_dmso_wells(world: World) -> None:
    release, dataset = release_of(world), world.dataset
    basal = dataset.basal.to_pandas()
    row = basal[(basal["role"] == "input") & (basal["plate"].str.contains("_X"))].iloc[0]
    reserved = basal[(basal["role"] == "reserved") & (basal["plate"] == row["plate"])].iloc[0]
    wells = release.wells[(release.wells["plate"] == row["plate"]) & (release.wells["name"] == "DMSO")]
    assert row["n_wells"] + reserved["n_wells"] == len(wells)
    ((_, values),) = release.reader.blocks(wells["row"].to_numpy(), release.genes.columns, 64)
    both = row["n_wells"] * np.asarray(row["expression"]) + reserved["n_wells"] * np.asarray(reserved["expression"])
    np.testing.assert_allclose(both / len(wells), values.mean(axis=0), rtol=1e-5)


def test_the_same_release_gives_the_same_dataset(world: World, tmp_path: Path) -> None:
    manifest = prepare(release_of(world), str(tmp_path / "again"), world.config)
    assert manifest == world.dataset.manifest
    again = open_dataset(str(tmp_path / "again"))
    assert again.profiles(["profile_id", "expression"]).equals(world.dataset.profiles(["profile_id", "expression"]))


def test_well_mode_takes_one_control_well(world: World, tmp_path: Path) -> None:
    config = small_config("pairing.basal_mode=well")
    prepare(release_of(world), str(tmp_path / "well"), config)
    basal = open_dataset(str(tmp_path / "well")).basal.to_pandas()
    assert set(basal.loc[basal["role"] == "input", "n_wells"]) == {1}
    assert basal.loc[basal["role"] == "reserved", "n_wells"].min() > 1


def wells(plates: list[str], times: list[float], prefix: str) -> pd.DataFrame:
    names = [f"{prefix}{i}" for i in range(len(plates))]
    rows = {"profile_id": names, "plate": plates, "cell": "A", "time_h": times, "row": range(len(plates))}
    return pd.DataFrame(rows)


def test_pairing_prefers_plate_then_batch_then_cell_and_time() -> None:
    treated = wells(["B1_X1", "B1_X2", "B2_X1", "B3_X1"], [6.0, 6.0, 6.0, 24.0], "t")
    controls = wells(["B1_X1"] * 5 + ["B9_X1"], [6.0] * 6, "c").assign(row=range(10, 16))
    paired = pair(treated, controls, PairingSettings(), seed=0)
    assert dict(zip(paired.wells["profile_id"], paired.wells["pairing_level"], strict=True)) == {
        "t0": "plate", "t1": "batch", "t2": "cell_time",
    }  # fmt: skip
    n_wells = paired.basal.set_index("basal_id")["n_wells"]
    assert [n_wells[b] for b in paired.wells["basal_id"]] == [3, 3, 4]  # 2 of the plate's 5 wells are reserved
    assert paired.wells["reserved_basal_id"].tolist()[1:] == [-1, -1]
    reserved = paired.members[paired.members["basal_id"] == paired.wells["reserved_basal_id"].iloc[0]]
    inputs = paired.members[paired.members["basal_id"].isin(paired.wells["basal_id"])]
    assert not set(reserved["row"]) & set(inputs["row"])


def test_batches_are_plates_without_their_replicate() -> None:
    plates = pd.Series(["CPC006_HT115_6H_X1", "CPC020_A549_6H_X3.L2", "LJP005_A375_24H_X1_B20", "NO_REPLICATE"])
    assert batch_of(plates).tolist() == ["CPC006_HT115_6H", "CPC020_A549_6H", "LJP005_A375_24H", "NO_REPLICATE"]


def test_close_doses_are_one_condition() -> None:
    frame = pd.DataFrame(
        {"cell": "A", "parent": ["p"] * 5 + ["q"], "time_h": 6.0, "dose_um": [1.1, 1.11, 1.2, 1.25, 10.0, 1.1]}
    )
    assert condition_ids(frame).tolist() == [0, 0, 0, 1, 2, 3]


def test_a_parents_place_follows_from_its_own_name() -> None:
    settings = SplitSettings(seed=3)
    digest = hashlib.sha256(b"3\x1fcompound\x1fCCO").digest()
    u = int.from_bytes(digest[:8], "big") / 2**64
    assert split_of("CCO", "compound", settings) == ("test" if u < 0.2 else "valid" if u < 0.4 else "train")
    shares = pd.Series([split_of(str(i), "compound", settings) for i in range(4000)]).value_counts(normalize=True)
    assert shares["test"] == pytest.approx(0.2, abs=0.03)
    assert shares["valid"] == pytest.approx(0.2, abs=0.03)


def test_a_dataset_is_not_overwritten_by_accident(world: World, tmp_path: Path) -> None:
    root = str(tmp_path / "data")
    prepare(release_of(world), root, world.config)
    with pytest.raises(DataError, match="already holds a dataset"):
        prepare(release_of(world), root, world.config)
    prepare(release_of(world), root, world.config, overwrite=True)


def same_dataset(one: PairedDataset, other: PairedDataset) -> bool:
    """Row for row, table for table, and in every figure of the manifest."""
    columns = profiles_schema(1).names
    tables = [(d.profiles(columns), d.basal, d.compounds) for d in (one, other)]
    return one.manifest == other.manifest and all(a.equals(b) for a, b in zip(*tables, strict=True))


@pytest.mark.parametrize("fail_at", [1, 2, 3, 5, 8, 13])
def test_a_failure_midway_leaves_no_dataset_and_is_resumed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    root, calls = str(tmp_path / "data"), 0
    config = small_config("prepare.rows_per_file=500")
    prepare(release_of(world), str(tmp_path / "undisturbed"), config)
    write_bytes = Store.write_bytes

    def full_disk(self: Store, name: str, content: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise StoreError("No space left on device")
        write_bytes(self, name, content)

    monkeypatch.setattr(Store, "write_bytes", full_disk)
    with pytest.raises(StoreError, match="No space left"):
        prepare(release_of(world), root, config)
    with pytest.raises(DataError, match="not a paired dataset"):
        open_dataset(root)
    monkeypatch.undo()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "data" / "profiles").glob("*.parquet")}
    recorded = {Path(root) / f"profiles/{path.stem}.parquet" for path in Path(root).glob(".unfinished/part-*.json")}
    if fail_at > 1:
        with pytest.raises(DataError, match="holds an unfinished prepare; --resume continues it"):
            prepare(release_of(world), root, config)
    prepare(release_of(world), root, config, resume=fail_at > 1)
    assert same_dataset(open_dataset(root), open_dataset(str(tmp_path / "undisturbed")))
    assert all(path.stat().st_mtime_ns == finished[path] for path in recorded)
    assert not (Path(root) / ".unfinished").exists()


def test_resuming_needs_the_same_release_and_settings(world: World, tmp_path: Path) -> None:
    root = str(tmp_path / "data")
    with pytest.raises(DataError, match="no unfinished prepare to resume"):
        prepare(release_of(world), root, world.config, resume=True)
    manifest = prepare(release_of(world), root, world.config)
    assert prepare(release_of(world), root, world.config, resume=True) == manifest
    with pytest.raises(DataError, match="already holds a dataset of another release or settings"):
        prepare(release_of(world), root, small_config("splits.seed=1"), resume=True)
    with pytest.raises(DataError, match="give only one of them"):
        prepare(release_of(world), root, world.config, resume=True, overwrite=True)
    (Path(root) / "manifest.json").rename(tmp_path / "manifest.json")
    Store(root).write_json(".unfinished/plan.json", {"plan": manifest["plan"]})
    with pytest.raises(DataError, match="--resume needs the release and settings"):
        prepare(release_of(world), root, small_config("splits.seed=1"), resume=True)
    assert prepare(release_of(world), root, world.config, resume=True) == manifest


def test_a_removal_that_was_killed_leaves_nothing_to_resume(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of parts whose files are gone must not pass for finished parts."""
    root, removed = str(tmp_path / "data"), []
    prepare(release_of(world), root, world.config)
    remove = Store.remove

    def killed(self: Store, name: str) -> None:
        remove(self, name)
        removed.append(name)
        if name == "profiles":
            raise KeyboardInterrupt

    monkeypatch.setattr(Store, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(release_of(world), root, world.config, overwrite=True)
    monkeypatch.undo()
    with pytest.raises(DataError, match="--resume needs the release and settings"):
        prepare(release_of(world), root, world.config, resume=True)
    assert prepare(release_of(world), root, world.config, overwrite=True)["n_profiles"] == 1200


def test_a_file_holds_one_split_after_the_other(world: World) -> None:
    """A reader of one split skips the row groups of the others, by their statistics."""
    dataset = world.dataset
    for entry in dataset.manifest["files"]:
        file = pq.ParquetFile(Path(dataset.url) / entry["path"])
        seen = [file.read_row_group(i, columns=["split"])["split"].to_pylist() for i in range(file.num_row_groups)]
        assert all(len(set(group)) == 1 for group in seen)
        assert [[group[0], len(group)] for group in seen] == entry["groups"]
        content = (Path(dataset.url) / entry["path"]).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_folder_that_cannot_be_written_is_one_line(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LdmRayError, match="file") as caught:
        prepare(release_of(world), str(tmp_path / "file" / "data"), world.config)
    assert "\n" not in str(caught.value)


def test_rules_that_leave_nothing_say_which(world: World, tmp_path: Path) -> None:
    config = small_config("cleaning.min_profiles_per_compound=100000")
    with pytest.raises(
        DataError, match="'compounds with at least 100000 profiles in all spellings \\(i\\)' removed the last"
    ):
        prepare(release_of(world), str(tmp_path / "data"), config)


def test_describe_tells_what_was_dropped(world: World) -> None:
    sections = {section.title: section for section in describe(world.dataset)}
    assert ["cell lines", "3", "82"] in sections[world.dataset.url].rows
    assert len(sections["What cleaning dropped"].rows) == 7
    said = [row[0] for row in sections["Examples and notes"].rows]
    assert any(text.startswith("dose and time known and above 0: dose unknown (") for text in said)


def test_real_release(mini_release: tuple[Path, Path, Path, Path], tmp_path: Path) -> None:
    """The small real release: counts taken from its tables by hand (docs/data.md)."""
    config = small_config("cleaning.min_profiles_per_compound=1")
    manifest = prepare(read_l1000(*mini_release), str(tmp_path / "mini"), config)
    assert [(step["removed"], step["wells_after"]) for step in manifest["cleaning"]] == [
        (587, 1423), (1, 1422), (7, 1415), (0, 1415), (0, 1415), (0, 1415),
    ]  # fmt: skip
    assert (manifest["n_compounds"], manifest["n_cell_lines"]) == (429, 9)
    assert manifest["pairing_levels"] == {"plate": 1365, "cell_time": 50}
    dataset = open_dataset(str(tmp_path / "mini"))
    groups = count_groups(dataset)
    assert groups == {"groups": 419, "several_spellings": 10, "on_two_sides": 0, "flagged": {"metal": 1}}
    expression = matrix(dataset.profiles(["expression"])["expression"])
    assert 0 <= expression.min() < expression.max() <= 16
    paper = prepare(read_l1000(*mini_release), str(tmp_path / "paper"), small_config())
    assert (paper["n_profiles"], paper["n_compounds"]) == (421, 73)


def test_real_h5ad(real_data: Path, mini_release: tuple[Path, Path, Path, Path], tmp_path: Path) -> None:
    """Its wells are also in the release: same profiles, genes matched by Entrez id."""
    config = small_config("cleaning.min_profiles_per_compound=1")
    path = real_data / "prnet_demo_HT115.h5ad"
    manifest = prepare(read_h5ad(path, mini_release[3]), str(tmp_path / "h5ad"), config)
    assert (manifest["n_profiles"], manifest["n_compounds"]) == (661, 354)
    prepare(read_l1000(*mini_release), str(tmp_path / "mini"), config)
    one, other = (open_dataset(str(tmp_path / name)) for name in ("h5ad", "mini"))
    order = [[gene["entrez_id"] for gene in d.manifest["genes"]] for d in (one, other)]
    assert sorted(order[0]) == sorted(order[1])
    tables = [d.profiles(["profile_id", "expression"]) for d in (one, other)]
    a = dict(
        zip(
            [name.removesuffix("-1") for name in tables[0]["profile_id"].to_pylist()],
            matrix(tables[0]["expression"]),
            strict=True,
        )
    )
    b = dict(zip(tables[1]["profile_id"].to_pylist(), matrix(tables[1]["expression"]), strict=True))
    same = sorted(set(a) & set(b))
    assert len(same) == 661
    by_a, by_b = np.argsort(order[0]), np.argsort(order[1])
    for name in same[::50]:
        np.testing.assert_allclose(a[name][by_a], b[name][by_b], atol=1e-4)


def test_somebody_elses_files_are_left_alone(world: World, tmp_path: Path) -> None:
    """A release's own folder holds its truth; preparing into it must not take that for an old dataset's."""
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="holds 'profiles' but no dataset"):
        prepare(release_of(world), str(tmp_path), world.config, overwrite=True)
    assert (tmp_path / "profiles" / "mine.txt").read_text() == "keep"
    with pytest.raises(DataError, match="holds 'truth.npz' but no dataset"):
        prepare(release_of(world), str(world.files.gctx.parent), world.config)
    assert world.files.truth.is_file()


def test_a_mistake_with_overwrite_keeps_the_old_dataset(world: World, tmp_path: Path) -> None:
    root = str(tmp_path / "data")
    manifest = prepare(release_of(world), root, world.config)
    config = small_config("cleaning.min_profiles_per_compound=100000")
    with pytest.raises(DataError, match="removed the last"):
        prepare(release_of(world), root, config, overwrite=True)
    assert open_dataset(root).manifest == manifest


def test_truth_follows_the_datasets_genes(world: World, tmp_path: Path) -> None:
    """A gene table in another order reorders measurements and truth alike."""
    table = pd.read_csv(world.files.gene_info, sep="\t", dtype=str).iloc[::-1]
    path = tmp_path / "genes.txt"
    table.to_csv(path, sep="\t", index=False)
    files = world.files
    prepare(read_l1000(files.gctx, files.inst_info, files.pert_info, path), str(tmp_path / "data"), world.config)
    reversed_truth, truth = planted_world(open_dataset(str(tmp_path / "data"))), planted_world(world.dataset)
    assert reversed_truth is not None
    assert truth is not None
    np.testing.assert_array_equal(reversed_truth.cell_basal, truth.cell_basal[:, ::-1])
    np.testing.assert_array_equal(reversed_truth.entrez_ids, truth.entrez_ids[::-1])
