"""The simulated release: deterministic, with errors as planned, and consistent with its truth."""

from pathlib import Path

import numpy as np
import pytest

from ldm_ray.chem.smiles import parse_compound
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.molecules import choose_molecules
from ldm_ray.data.simulate import simulate_release
from ldm_ray.data.world import World as Planted
from ldm_ray.data.world import build_world
from ldm_ray.errors import DataError, QueryError
from ldm_ray.evaluation.baselines.truth import planted_world
from ldm_ray.storage.store import matrix
from tests.conftest import World, small_config


def planted(world: World) -> Planted:
    truth = planted_world(world.dataset)
    assert truth is not None
    return truth


def true_deltas(dataset: PairedDataset, truth: Planted) -> np.ndarray:
    frame = dataset.profiles(["cell_id", "compound_id", "dose_um", "time_h"]).to_pandas()
    cells, parents = np.array(dataset.cells)[frame["cell_id"]], dataset.parent_smiles[frame["compound_id"]]
    return truth.true_delta(cells, parents, frame["dose_um"].to_numpy(), frame["time_h"].to_numpy())


@pytest.mark.parametrize("threads", [1, 5])
def test_files_do_not_depend_on_threads(world: World, tmp_path: Path, threads: int) -> None:
    config = small_config(f"simulate.threads={threads}")
    files = simulate_release(config.simulate, tmp_path, config.seed)
    for name in ("inst_info", "pert_info", "gene_info"):
        assert getattr(files, name).read_bytes() == getattr(world.files, name).read_bytes()
    import h5py

    with h5py.File(files.gctx) as a, h5py.File(world.files.gctx) as b:
        assert np.array_equal(a["0/DATA/0/matrix"], b["0/DATA/0/matrix"])


def test_measurements_scatter_around_the_truth_as_planted(world: World) -> None:
    """y - C - D has zero mean and the planted variance, that of well, control mean and treated plate."""
    dataset, truth = world.dataset, planted(world)
    table = dataset.profiles(["basal_id", "expression", "pairing_level"])
    same_plate = np.array(table["pairing_level"].to_pylist()) == "plate"
    basal_id = table["basal_id"].to_numpy()[same_plate]
    noise = (matrix(table["expression"]) - true_deltas(dataset, truth))[same_plate] - dataset.basal_expression[basal_id]
    n_controls = dataset.basal["n_wells"].to_numpy()[basal_id].mean()
    well = (truth.noise_factor**2).sum(1) + truth.noise_sd**2
    expected = well * (1 + 1 / n_controls) + (truth.treated_plate_factor**2).sum(1)
    assert noise.var() == pytest.approx(float(expected.mean()), rel=0.05)
    assert abs(noise.mean()) < 0.02
    assert np.trace(truth.noise_covariance()) == pytest.approx(
        float((well + (truth.treated_plate_factor**2).sum(1)).sum()), rel=1e-4
    )


def test_replicates_correlate_as_in_real_data(world: World) -> None:
    """Median delta correlation of replicates on different plates, near the 0.16 of real L1000."""
    table = world.dataset.profiles(["condition_id", "plate", "basal_id", "expression"])
    delta = matrix(table["expression"]) - world.dataset.basal_expression[table["basal_id"].to_numpy()]
    frame = table.select(["condition_id", "plate"]).to_pandas()
    pairs = [rows[:2] for rows in frame.groupby("condition_id").indices.values() if len(rows) > 1]
    correlations = [np.corrcoef(delta[a], delta[b])[0, 1] for a, b in pairs]
    assert np.median(correlations) == pytest.approx(0.16, abs=0.06)


def test_dose_response_goes_the_right_way(world: World) -> None:
    """More compound, more effect; without compound, only the common response."""
    truth = planted(world)
    cell, compound = np.zeros(30, dtype=int), np.arange(30)
    time = np.full(30, 24.0)
    none = truth.delta(cell, compound, np.full(30, 1e-9), time)
    np.testing.assert_allclose(none, np.broadcast_to(none[0], none.shape), atol=1e-4)
    sizes = [
        np.linalg.norm(truth.delta(cell, compound, np.full(30, dose), time) - none, axis=1)
        for dose in (0.1, 1, 10, 100)
    ]
    assert (np.diff(sizes, axis=0) > 0).all()
    early = truth.delta(cell, compound, np.full(30, 10.0), np.full(30, 1.0))
    late = truth.delta(cell, compound, np.full(30, 10.0), np.full(30, 24.0))
    assert np.linalg.norm(early) < np.linalg.norm(late)


def test_mechanism_follows_from_structure(world: World) -> None:
    """Compounds of one scaffold family act alike, others do not."""
    config = small_config("simulate.n_compounds=200")
    truth = build_world(config.simulate, np.arange(50), 1)
    molecules = choose_molecules(200, 16, np.random.default_rng([1, 1]))
    assert molecules.parent_smiles.tolist() == truth.parent_smiles.tolist()
    weights = truth.weights / np.linalg.norm(truth.weights, axis=1, keepdims=True)
    similarity = weights @ weights.T
    same = molecules.mechanism[:, None] == molecules.mechanism
    off = ~np.eye(200, dtype=bool)
    assert similarity[same & off].mean() > 0.4
    assert abs(similarity[~same].mean()) < 0.2


def test_molecules_are_real_ones() -> None:
    molecules = choose_molecules(500, 16, np.random.default_rng(0))
    assert len(set(molecules.parent_smiles)) == 500
    groups = set()
    for text in molecules.parent_smiles:
        compound = parse_compound(text)
        assert compound is not None
        assert compound.parent_smiles == text
        groups.add(compound.group)
    assert len(groups) == 500


def test_a_real_gene_table_gives_real_genes(mini_release: tuple[Path, ...], tmp_path: Path) -> None:
    config = small_config("simulate.n_profiles=500")
    files = simulate_release(config.simulate, tmp_path, 0, gene_info=mini_release[3])
    assert "DDR1" in files.gene_info.read_text()
    assert "SIMG" not in files.gene_info.read_text()


def test_true_mean_is_untreated_cells_plus_true_delta(world: World) -> None:
    truth = planted(world)
    query = (truth.cell_names[[0, 1]], truth.parent_smiles[[3, 4]], np.array([1.0, 10.0]), np.array([6.0, 24.0]))
    np.testing.assert_array_equal(truth.true_mean(*query), truth.cell_basal[[0, 1]] + truth.true_delta(*query))


def test_mistakes(world: World) -> None:
    with pytest.raises(DataError, match="already holds a release"):
        simulate_release(world.config.simulate, world.files.gctx.parent, 0)
    with pytest.raises(QueryError, match="no compound 'CCO'"):
        planted(world).true_delta(np.array(["SIMC001"]), np.array(["CCO"]), np.array([1.0]), np.array([6.0]))
