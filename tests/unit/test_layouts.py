"""One and the same wells in five layouts: the same paired dataset from each."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldm_ray.data.dataset import open_dataset
from ldm_ray.data.prepare import prepare
from ldm_ray.data.releases.paths import ReleasePaths
from ldm_ray.errors import LdmRayError
from ldm_ray.storage.store import matrix
from tests.conftest import small_config
from tests.layouts import LAYOUTS, N_GENES, Truth, Writer, some_wells
from tests.mutations import mutate

CONFIG = small_config("cleaning.min_profiles_per_compound=1")


def as_table(paths: ReleasePaths, root: Path) -> pd.DataFrame:
    """Prepare a release; return everything about its wells that must not depend on the layout."""
    prepare(paths.open({}), str(root), CONFIG)
    dataset = open_dataset(str(root))
    columns = ["profile_id", "cell_id", "compound_id", "condition_id", "plate", "well", "dose_um", "time_h"]
    columns += ["basal_id", "reserved_basal_id", "pairing_level", "split", "fold", "cell_split", "plate_split"]
    wells = dataset.profiles([*columns, "expression"])
    frame: pd.DataFrame = wells.select(columns).to_pandas()
    genes = np.argsort(dataset.gene_symbols)
    expression = matrix(wells["expression"])[:, genes]
    frame["expression"] = [row.tobytes() for row in expression]
    controls = [row.tobytes() for row in dataset.basal_expression[:, genes]]
    for name in ("basal_id", "reserved_basal_id"):
        frame[name] = [controls[i] if i >= 0 else b"" for i in frame[name]]
    frame["cell_id"] = [dataset.cells[i] for i in frame["cell_id"]]
    frame["compound_id"] = dataset.parent_smiles[frame["compound_id"].to_numpy()]
    return frame.sort_values("profile_id", ignore_index=True)


def check_truth(frame: pd.DataFrame, truth: Truth) -> None:
    """The wells say what they were made from."""
    treated = truth.frame[truth.frame["kind"] == "trt_cp"].sort_values("profile_id", ignore_index=True)
    assert frame["profile_id"].tolist() == treated["profile_id"].tolist()
    for name in ("plate", "well"):
        assert frame[name].tolist() == treated[name].tolist()
    assert frame["cell_id"].tolist() == treated["cell"].tolist()
    np.testing.assert_array_equal(frame["dose_um"], treated["dose_um"].astype(np.float32))
    np.testing.assert_array_equal(frame["time_h"], treated["time_h"].astype(np.float32))


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
def test_every_layout_gives_the_same_dataset(seed: int) -> None:
    """Whatever the order of rows, columns and genes, the units, the types of ids and the extra columns."""
    truth = some_wells(seed)
    with tempfile.TemporaryDirectory() as folder:
        tables = {}
        for number, (name, write) in enumerate(LAYOUTS.items()):
            paths = write(Writer(truth, Path(folder) / name, seed + number))
            tables[name] = as_table(paths, Path(folder) / f"{name}-data")
    first = tables["gse92742"]
    check_truth(first, truth)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(table, first, obj=name)


def outcome(seed: int, folder: Path) -> str:
    """Spoil a random release in one way and prepare it.

    Returns:
        What was done and what came of it.

    Raises:
        AssertionError: If wells were accepted with changed values, or lost without a count.
    """
    truth, names = some_wells(seed % 7), list(LAYOUTS)
    paths = LAYOUTS[names[seed % len(names)]](Writer(truth, folder / "release", seed))
    said = f"{names[seed % len(names)]}, {mutate(np.random.default_rng(seed), paths)}"
    try:
        frame = as_table(paths, folder / "data")
    except (LdmRayError, OSError) as error:
        message = " ".join(str(error).split())
        assert 20 < len(message) < 1200, message
        return f"{said} -> {message}"
    known = truth.frame.set_index("profile_id")
    # Without rna_plate the plate has the name of det_plate; and a file need not say its wells' places.
    frame["plate"] = frame["plate"].str.removesuffix("_B5")
    frame["well"] = frame["well"].mask(frame["well"] == "", frame["profile_id"].map(known["well"]))
    if not said.endswith(": names"):  # there the wells' names are what was changed
        check_truth(frame, replace(truth, frame=known.loc[frame["profile_id"]].reset_index()))
        expected = truth.x[known.index.get_indexer(frame["profile_id"])]
        order = np.argsort(truth.genes["symbol"].to_numpy()[:N_GENES])
        np.testing.assert_array_equal(
            np.stack([np.frombuffer(row, np.float32) for row in frame["expression"]]), expected[:, :N_GENES][:, order]
        )
    manifest = open_dataset(str(folder / "data")).manifest
    lost = sum(step["removed"] for step in manifest["cleaning"][1:])
    lost += sum(count for name, count in manifest["counts"].items() if name != "wells_in_table")
    assert len(frame) + lost >= (truth.frame["kind"] == "trt_cp").sum(), said
    return f"{said} -> {len(frame)} wells"


@pytest.mark.filterwarnings("ignore:Observation names are not unique", "ignore:Writing zarr v2 data")
@pytest.mark.parametrize("seed", range(16))
def test_spoilt_files_are_refused_or_read_rightly(seed: int, tmp_path: Path) -> None:
    """Never a traceback, never a changed value; `make test-full` spoils 500."""
    outcome(seed, tmp_path)
