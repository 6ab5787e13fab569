"""Validate, migrate, pictures: the tools for an existing dataset."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldm_ray.data.dataset import open_dataset
from ldm_ray.data.migrate import migrate
from ldm_ray.data.parts import write_wells
from ldm_ray.data.pictures import draw_pictures
from ldm_ray.data.prepare import prepare
from ldm_ray.data.releases.l1000 import read_l1000
from ldm_ray.data.validate import CHECKS, validate
from ldm_ray.errors import DataError
from ldm_ray.schema import profiles_schema
from ldm_ray.storage.store import Store, list_column, matrix
from tests.conftest import World, small_config


@pytest.fixture
def copy(world: World, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world.dataset.url, tmp_path / "data"))


def rewrite(root: Path, change: Callable[[pd.DataFrame, np.ndarray], Any]) -> None:
    """Change the first file's wells and write it, and its manifest entry, as if they had been prepared so."""
    manifest = json.loads((root / "manifest.json").read_text())
    path = manifest["files"][0]["path"]
    table = pq.read_table(root / path)
    frame, values = table.drop_columns(["expression"]).to_pandas(), matrix(table["expression"]).copy()
    change(frame, values)
    schema = profiles_schema(values.shape[1])
    plain = pa.Table.from_pandas(frame, preserve_index=False)
    changed = plain.append_column("expression", list_column(values)).select(schema.names).cast(schema)
    manifest["files"][0] = write_wells(Store(str(root)), path, changed)
    (root / "manifest.json").write_text(json.dumps(manifest))


def problems(root: Path) -> dict[str, list[str]]:
    names = {text: name for name, text in CHECKS.items()}
    found = {names[finding.check]: finding.problems for finding in validate(open_dataset(str(root)))}
    assert list(found) == list(CHECKS)
    return {name: texts for name, texts in found.items() if texts}


def test_a_good_dataset_passes_every_check(copy: Path) -> None:
    assert problems(copy) == {}


def set_nan(frame: pd.DataFrame, values: np.ndarray) -> None:
    values[3, 5] = np.nan


def set_counts_scale(frame: pd.DataFrame, values: np.ndarray) -> None:
    values[:] = 2.0**values


def set_duplicate(frame: pd.DataFrame, values: np.ndarray) -> None:
    frame.loc[1, ["profile_id", "profile_key"]] = frame.loc[0, ["profile_id", "profile_key"]]


def set_key(frame: pd.DataFrame, values: np.ndarray) -> None:
    frame.loc[0, "profile_key"] += 1


def set_leak(frame: pd.DataFrame, values: np.ndarray) -> None:
    frame.loc[frame["split"] == "train", "compound_id"] = frame.loc[frame["split"] == "test", "compound_id"].iloc[0]


def set_dose(frame: pd.DataFrame, values: np.ndarray) -> None:
    frame.loc[2, "dose_um"] = -666.0


def set_level(frame: pd.DataFrame, values: np.ndarray) -> None:
    frame.loc[2, "pairing_level"] = "galaxy"


def set_reserved(frame: pd.DataFrame, values: np.ndarray) -> None:
    has = frame["reserved_basal_id"] >= 0
    frame.loc[has, "basal_id"] = frame.loc[has, "reserved_basal_id"]


def set_other_control(frame: pd.DataFrame, values: np.ndarray) -> None:
    frame["basal_id"] = frame["basal_id"].to_numpy()[::-1]


def set_reference(frame: pd.DataFrame, values: np.ndarray) -> None:
    frame.loc[0, "basal_id"] = 10_000


def set_fold(frame: pd.DataFrame, values: np.ndarray) -> None:
    frame["fold"] = np.int8(1)


@pytest.mark.parametrize(
    ("change", "check", "text"),
    [
        (set_nan, "values", "holds NaN or infinite values in 1 rows"),
        (set_counts_scale, "values", "must be log2 intensities (Level 3), about 2 to 15; these are linear intensities"),
        (set_duplicate, "ids", "appears twice"),
        (set_key, "ids", "is not the key of its id"),
        (set_reference, "ids", "basal_id must lie in 0.."),
        (set_leak, "splits", "is on two sides of split"),
        (set_fold, "splits", "fold must be -1 in the test split and nowhere else"),
        (set_dose, "ranges", "must be above 0; got -666"),
        (set_level, "ranges", "pairing_level must be one of plate, batch, cell_time; got galaxy"),
        (set_reserved, "controls", "basal_id must point to controls of role input"),
        (set_other_control, "controls", "has another cell_id"),
    ],
)
def test_what_is_wrong_is_found(copy: Path, change: Callable[..., None], check: str, text: str) -> None:
    rewrite(copy, change)
    assert any(text in found for found in problems(copy)[check])


def test_damaged_and_missing_files_are_found(copy: Path) -> None:
    path = copy / "profiles" / "part-00000.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(bytes(content))
    assert "differs from the file that was written" in problems(copy)["files"][0]
    path.unlink()
    assert "does not exist" in problems(copy)["files"][0]


def test_counts_and_row_groups_that_do_not_match_are_found(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["n_profiles"] += 1
    manifest["files"][0]["groups"][0][1] += 1
    (copy / "manifest.json").write_text(json.dumps(manifest))
    found = problems(copy)
    assert "n_profiles is 1,201 in the manifest; the files have 1,200" in found["counts"]
    assert "row groups must be" in found["schema"][0]


def as_version_1(root: Path) -> None:
    """Write a dataset as version 1 did: no key, splits mixed within one row group, no checksums."""
    manifest = json.loads((root / "manifest.json").read_text())
    for entry in manifest["files"]:
        table = pq.read_table(root / entry["path"]).drop_columns(["profile_key", "batch"])
        table = table.take(np.random.default_rng(0).permutation(len(table)))
        names = [name for name in table.column_names if name != "expression"]
        pq.write_table(table.select([*names[:5], "expression", *names[5:]]), root / entry["path"])
    manifest["files"] = [{"path": entry["path"], "rows": entry["rows"]} for entry in manifest["files"]]
    manifest["schema_version"] = 1
    del manifest["plan"]
    (root / "manifest.json").write_text(json.dumps(manifest))


def test_version_3_gets_batches_and_an_unknown_variance_of_controls(world: World, copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    for entry in manifest["files"]:
        pq.write_table(pq.read_table(copy / entry["path"]).drop_columns(["batch"]), copy / entry["path"])
    basal = pq.read_table(copy / "basal.parquet")
    pq.write_table(basal.drop_columns(["variance"]), copy / "basal.parquet")
    (copy / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 3}))
    assert migrate(str(copy))
    assert problems(copy) == {}
    migrated, columns = open_dataset(str(copy)), ["profile_id", "plate", "batch", "split"]
    assert migrated.profiles(columns).equals(world.dataset.profiles(columns))
    assert np.isnan(migrated.basal_variance).all()
    assert np.isfinite(world.dataset.basal_variance[np.array(basal["n_wells"]) > 1]).all()


def test_an_older_schema_is_refused_with_the_command_that_migrates_it(world: World, copy: Path) -> None:
    as_version_1(copy)
    with pytest.raises(DataError, match=f"schema version 1; .* reads 4: run `ldm-ray data migrate {copy}`"):
        open_dataset(str(copy))
    assert migrate(str(copy))
    assert problems(copy) == {}
    columns = ["profile_id", "profile_key", "expression", "basal_id", "split"]
    tables = [d.profiles(columns).sort_by("profile_id") for d in (open_dataset(str(copy)), world.dataset)]
    assert tables[0].equals(tables[1])
    assert not migrate(str(copy))
    assert len(list((copy / "profiles").iterdir())) == len(world.dataset.manifest["files"])


def test_a_migration_that_was_interrupted_is_started_again(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_version_1(copy)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrate(str(copy), on_progress=stop)
    with pytest.raises(DataError, match="schema version 1"):
        open_dataset(str(copy))
    assert migrate(str(copy))
    assert problems(copy) == {}


def test_an_unknown_version_is_not_guessed_at(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    with pytest.raises(DataError, match="has schema version 99; this version of ldm-ray migrates 1 to 3"):
        migrate(str(copy))


def test_pictures_are_drawn(world: World, tmp_path: Path) -> None:
    pictures = draw_pictures(world.dataset, Store(str(tmp_path)))
    assert [Path(url).read_bytes()[:4] for url in pictures] == [b"\x89PNG"] * 3


def test_gene_symbols_of_another_vintage_do_not_matter(
    mini_release: tuple[Path, Path, Path, Path], tmp_path: Path
) -> None:
    """Genes join on Entrez id: new symbols change what genes are called and nothing else."""
    gctx, inst, pert, genes = mini_release
    table = pd.read_csv(genes, sep="\t", dtype=str)
    renamed = {"HDGFRP3": "HDGFL3", "PAPD7": "TENT4A", "KIAA0100": "BLTP2"}
    old = table.loc[table["pr_is_lm"] == "1", "pr_gene_symbol"]
    table["pr_gene_symbol"] = table["pr_gene_symbol"].replace(renamed) + "_2026"
    table.iloc[::-1].to_csv(tmp_path / "newer.txt", sep="\t", index=False)
    config = small_config("cleaning.min_profiles_per_compound=1")
    for name, file in (("old", genes), ("new", tmp_path / "newer.txt")):
        prepare(read_l1000(gctx, inst, pert, file), str(tmp_path / name), config)
    one, two = open_dataset(str(tmp_path / "old")), open_dataset(str(tmp_path / "new"))
    assert set(one.gene_symbols) == set(old)
    assert not set(one.gene_symbols) & set(two.gene_symbols)
    orders = [np.argsort([gene["entrez_id"] for gene in d.manifest["genes"]]) for d in (one, two)]
    values = [matrix(d.profiles(["expression"])["expression"])[:, o] for d, o in zip((one, two), orders, strict=True)]
    np.testing.assert_array_equal(values[0], values[1])
