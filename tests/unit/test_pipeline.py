"""The status of a run of the whole chain, and the conditions it predicts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_ray.config import read_settings
from ldm_ray.data.releases.paths import ReleasePaths
from ldm_ray.errors import DataError
from ldm_ray.layout import METRICS, PIPELINE, PLAN, SETTINGS
from ldm_ray.prediction.bulk.conditions import COLUMNS
from ldm_ray.storage.store import Store
from ldm_ray.workflows.pipeline import DATA, FOLDERS, REPORT, Pipeline, held_out_conditions
from ldm_ray.workflows.pipeline_state import PipelineState, read_steps
from tests.conftest import World, small_config

STEPS = [("prepare", "data"), ("embed", "data"), ("train vae", "vae")]


def states(store: Store) -> dict[str, str]:
    return {step["name"]: step["state"] for step in read_steps(store)}


def test_each_step_says_how_it_stands(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    state = PipelineState(store, STEPS)
    with state.running("prepare"):
        assert states(store) == {"prepare": "running", "embed": "waiting", "train vae": "waiting"}
    with pytest.raises(DataError), state.running("embed"):
        raise DataError("no compound\nis known")
    assert states(store) == {"prepare": "done", "embed": "failed", "train vae": "waiting"}
    assert read_steps(store)[1]["error"] == "no compound is known"
    again = PipelineState(store, STEPS)
    again.skip("prepare")
    with pytest.raises(KeyboardInterrupt), again.running("embed"):
        raise KeyboardInterrupt
    assert states(store)["embed"] == "interrupted"
    assert "error" not in read_steps(store)[1]


def test_a_damaged_state_is_no_state(tmp_path: Path) -> None:
    (tmp_path / PIPELINE).write_text('{"steps": ')
    assert read_steps(Store(str(tmp_path))) == []
    assert [step["state"] for step in PipelineState(Store(str(tmp_path)), STEPS).record["steps"]] == ["waiting"] * 3


def test_the_held_out_conditions_are_those_of_the_test_wells(world: World) -> None:
    table = held_out_conditions(world.dataset)
    assert tuple(table.column_names) == COLUMNS
    wells = world.dataset.profiles(["condition_id", "compound_id"], "test").to_pandas()
    assert len(table) == wells["condition_id"].nunique() == len(table.to_pandas().drop_duplicates())
    assert set(table["smiles"].to_pylist()) == set(world.dataset.parent_smiles[wells["compound_id"].unique()])


def test_a_run_goes_on_with_what_it_was_begun_with(tmp_path: Path) -> None:
    run = begun(tmp_path)
    Pipeline(str(tmp_path), small_config("ray.num_workers=2", "prepare.workers=1"))._check_folder()  # decides nothing
    with pytest.raises(DataError, match="holds a run with other settings"):
        Pipeline(str(tmp_path), small_config("seed=5")).run()
    with pytest.raises(DataError, match="holds a run of another release"):
        Pipeline(str(tmp_path), small_config(), ReleasePaths(h5ad="other.h5ad")).run()
    assert not run.store.exists(PIPELINE)


def test_a_run_may_be_judged_otherwise_until_its_report_is_there(tmp_path: Path) -> None:
    run = begun(tmp_path)
    fewer = small_config("evaluate.max_profiles=7")
    Pipeline(str(tmp_path), fewer)._check_folder()
    assert read_settings(run.store.read_bytes(SETTINGS)) == fewer
    run.store.write_json(f"{REPORT}/{METRICS}", {})
    Pipeline(str(tmp_path), small_config("evaluate.max_profiles=7", "evaluate.workers=1"))._check_folder()
    with pytest.raises(DataError, match="holds a run with other settings"):
        Pipeline(str(tmp_path), small_config())._check_folder()


def test_what_failed_before_anything_was_made_binds_to_nothing(tmp_path: Path) -> None:
    Pipeline(str(tmp_path), small_config("seed=5"), ReleasePaths(h5ad="mistyped.h5ad"))._check_folder()
    run = Pipeline(str(tmp_path), small_config())
    run._check_folder()
    assert read_settings(run.store.read_bytes(SETTINGS)).seed == 0


def test_what_other_commands_left_is_neither_adopted_nor_removed(tmp_path: Path) -> None:
    bundle = tmp_path / "vae" / "metadata.json"
    bundle.parent.mkdir()
    bundle.write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(DataError, match="holds vae of other commands; choose another --out"):
            Pipeline(str(tmp_path), small_config()).run(overwrite=overwrite)
    assert bundle.exists()


def test_an_overwrite_that_is_killed_leaves_nothing_that_counts_as_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path)
    markers = [f"{folder}/{marker}" for _, folder, marker, _ in run._steps if marker]
    for marker in markers:
        run.store.write_json(marker, {})
    removed: list[str] = []

    def killed(store: Store, name: str, remove: Callable[[Store, str], None] = Store.remove) -> None:
        if name in FOLDERS:
            raise KeyboardInterrupt
        removed.append(name)
        remove(store, name)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            run._remove()
    assert set(markers) <= set(removed)
    with pytest.raises(DataError, match="holds a run with other settings"):  # it still knows whose it was
        Pipeline(str(tmp_path), small_config("seed=5")).run()
    run._remove()
    assert list(tmp_path.iterdir()) == []


def begun(folder: Path) -> Pipeline:
    """Return a run that has begun to prepare."""
    run = Pipeline(str(folder), small_config())
    run._check_folder()
    run.store.write_json(f"{DATA}/{PLAN}", {})
    return run


def test_half_a_release_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="or all of --gctx, --inst-info, --pert-info and --gene-info"):
        Pipeline(str(tmp_path), small_config(), ReleasePaths(gctx="some.gctx")).run()
    assert list(tmp_path.iterdir()) == []
