"""What a run of the whole chain says of itself, and which conditions it predicts."""

from pathlib import Path

import pytest

from ldm_ray.conditions import COLUMNS
from ldm_ray.data.releases import ReleasePaths
from ldm_ray.data.store import Store
from ldm_ray.errors import DataError
from ldm_ray.pipeline import STATE, PipelineState, read_steps
from ldm_ray.ray_pipeline import Pipeline, held_out_conditions
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
    (tmp_path / STATE).write_text('{"steps": ')
    assert read_steps(Store(str(tmp_path))) == []
    assert [step["state"] for step in PipelineState(Store(str(tmp_path)), STEPS).steps] == ["waiting"] * 3


def test_the_held_out_conditions_are_those_of_the_test_wells(world: World) -> None:
    table = held_out_conditions(world.dataset)
    assert tuple(table.column_names) == COLUMNS
    wells = world.dataset.profiles(["condition_id", "compound_id"], "test").to_pandas()
    assert len(table) == wells["condition_id"].nunique() == len(table.to_pandas().drop_duplicates())
    assert set(table["smiles"].to_pylist()) == set(world.dataset.parent_smiles[wells["compound_id"].unique()])


def test_another_run_s_folder_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    Pipeline(str(tmp_path), small_config())._check_settings()
    Pipeline(str(tmp_path), small_config("ray.num_workers=2"))._check_settings()  # nothing that a result depends on
    with pytest.raises(DataError, match="holds a run with other settings"):
        Pipeline(str(tmp_path), small_config("seed=5")).run()
    with pytest.raises(DataError, match="holds a run of another release"):
        Pipeline(str(tmp_path), small_config(), ReleasePaths(h5ad="other.h5ad")).run()
    assert not (tmp_path / STATE).exists()


def test_half_a_release_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="or all of --gctx, --inst-info, --pert-info and --gene-info"):
        Pipeline(str(tmp_path), small_config(), ReleasePaths(gctx="some.gctx")).run()
    assert states(Store(str(tmp_path)))["prepare"] == "failed"
