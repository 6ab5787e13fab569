"""The mean model of target `effects`: fitted on a dataset, kept in a bundle, used for wells and for queries alike."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ldm_ray.bundle.residuals import Residuals, residual_parts
from ldm_ray.bundle.stored_effects import WITHOUT_FOLD, restored_effects, stored_effects
from ldm_ray.chem.similarity import packed, tanimoto, tanimoto_table
from ldm_ray.cluster.train.run import Run, base_of
from ldm_ray.data.folds import fold_dataset
from ldm_ray.data.pairing import batch_name
from ldm_ray.data.wells import load_wells, open_wells
from ldm_ray.data_settings import EffectsSettings
from ldm_ray.effects.fit import fit_dataset_controls, fit_mean_model
from ldm_ray.effects.fit_compounds import conditions_of
from ldm_ray.effects.mean import MeanModel
from ldm_ray.effects.wells import NO_COMPOUND, compound_folds
from ldm_ray.evaluation.baselines.residuals import ResidualClouds
from ldm_ray.evaluation.predictions import Model, model_inputs
from ldm_ray.prediction.predictor import Predictor, Query
from ldm_ray.storage.store import Store
from tests.bundles import SMILES, random_bundle
from tests.conftest import World, small_config

SETTINGS = EffectsSettings(landmarks=150)


@pytest.fixture(scope="module")
def model(world: World) -> MeanModel:
    return fit_mean_model(world.dataset, SETTINGS, 0)


def test_it_predicts_new_compounds_better_than_their_plates_do(world: World, model: MeanModel) -> None:
    """On simulated wells, whose effects follow from structure."""
    wells, base = load_wells(world.dataset, "test"), model.on(world.dataset)
    error = float(((wells.y - base.of_wells(wells)) ** 2).mean())
    assert error < 0.995 * float(((wells.y - base.table[wells.frame["basal_id"]]) ** 2).mean())
    assert error < 0.9 * float(((wells.y - wells.basal) ** 2).mean())


def test_a_bundle_gives_it_back(world: World, model: MeanModel) -> None:
    stored, tensors = stored_effects(model)
    again = restored_effects(stored, tensors)
    wells = load_wells(world.dataset, "valid")
    ours, theirs = (each.on(world.dataset) for each in (model, again))
    np.testing.assert_allclose(ours.of_wells(wells), theirs.of_wells(wells), atol=1e-5)
    again_stored, again_tensors = stored_effects(again)
    assert again_stored == stored
    for name, value in tensors.items():
        torch.testing.assert_close(again_tensors[name], value)


def test_training_wells_are_predicted_without_their_fold(world: World, model: MeanModel) -> None:
    """The effect on a training well is that of coefficients fitted without its compound; a new compound has all."""
    dataset, base = world.dataset, model.on(world.dataset)
    folds, effects = compound_folds(dataset), model.compounds
    for split in ("train", "test"):
        wells = load_wells(dataset, split)
        similar = torch.from_numpy(effects.similarity(packed(dataset.parent_smiles.tolist())))
        kernel = effects.kernel(similar[wells.frame["compound_id"]], conditions_of(effects, wells, dataset))
        found = base.of_wells(wells) - base.table[wells.frame["basal_id"]]
        for row in (0, 17, len(wells) - 1):
            fold = folds[wells.frame["compound_id"].iloc[row]]
            assert (fold < 0) == (split == "test")
            own = effects.coefficients if fold < 0 else effects.without_fold[fold]
            np.testing.assert_allclose(found[row], (kernel[row] @ own).numpy(), atol=1e-5)


def test_what_is_left_out_of_fold_is_larger_than_in_fold(world: World, model: MeanModel) -> None:
    """In-fold residuals are too small, which is why the diffusion is trained on the others."""
    wells = load_wells(world.dataset, "train")
    in_fold = replace(model, compounds=replace(model.compounds, without_fold=model.compounds.without_fold[:0]))
    honest, fitted = (
        float(((wells.y - each.on(world.dataset).of_wells(wells)) ** 2).mean()) for each in (model, in_fold)
    )
    assert fitted < honest


def test_neither_order_of_wells_nor_seed_of_landmarks_is_chance(world: World, model: MeanModel) -> None:
    again = fit_mean_model(world.dataset, SETTINGS, 0)
    torch.testing.assert_close(again.compounds.coefficients, model.compounds.coefficients, rtol=0, atol=0)
    other = fit_mean_model(world.dataset, SETTINGS, 1)
    assert not torch.equal(other.compounds.landmarks.log_dose, model.compounds.landmarks.log_dose)


def test_queries_and_wells_have_the_same_base(world: World) -> None:
    """On a plate that is not known; a decoder that says 0 then predicts control, f D_g and m."""
    bundle = random_bundle(world, "target=effects", "effects.landmarks=150")
    del bundle.tensors[WITHOUT_FOLD]
    for name, value in bundle.tensors.items():
        if name.startswith("vae.decoder"):
            value.zero_()
    predictor, dataset = Predictor(bundle), world.dataset
    model = bundle.target_base()
    assert isinstance(model, MeanModel)
    wells = load_wells(dataset, "test").take(np.arange(3))
    cells = [dataset.cells[cell] for cell in wells.frame["cell_id"]]
    parents = dataset.parent_smiles[wells.frame["compound_id"]]
    doses, times = wells.frame["dose_um"], wells.frame["time_h"]
    queries = [
        Query(smiles, float(dose), float(time), cell)
        for smiles, dose, time, cell in zip(parents, doses, times, cells, strict=True)
    ]
    answer, base = predictor.predict(queries), model.on(dataset)
    of_compound = base.of_wells(wells) - base.table[wells.frame["basal_id"]]
    of_place = [model.plates.of_new_batch(cell, float(time)) for cell, time in zip(cells, times, strict=True)]
    np.testing.assert_allclose(answer.delta, of_compound + np.array(of_place), atol=1e-4)
    np.testing.assert_allclose(predictor.direct_mean(queries), answer.mean, atol=1e-4)
    trained = random_bundle(world, "target=effects", "effects.landmarks=150")
    np.testing.assert_allclose(Predictor(trained).direct_mean(queries), answer.mean, atol=1e-4)  # draws or no draws
    alone = predictor.predict(queries[1:2])
    np.testing.assert_array_equal(alone.mean[0], answer.mean[1])


def test_no_compound_has_no_effect_and_an_unknown_cell_line_the_mean_of_all(world: World, model: MeanModel) -> None:
    base, wells = model.on(world.dataset), load_wells(world.dataset, "test").take(np.arange(4))
    frame = wells.frame
    none = np.full(4, NO_COMPOUND)
    own = base.of(frame["basal_id"].to_numpy(), none, frame["dose_um"].to_numpy(), frame["time_h"].to_numpy())
    np.testing.assert_array_equal(own, base.table[frame["basal_id"]])
    shift = model.plates.of_new_batch("HEPG3", 24.0)
    np.testing.assert_array_equal(shift, model.plates.factor * model.plates.everywhere)
    predictor = Predictor(random_bundle(world, "target=effects", "effects.landmarks=50"))
    control = np.full(978, 8.0, np.float32)
    assert predictor.predict([Query(SMILES, 10.0, 24.0, basal=control)]).mean.shape == (1, 978)


def test_a_plate_falls_back_to_its_batch_and_then_to_a_new_one(world: World, model: MeanModel) -> None:
    (cell, time_h, plate), own = next(iter(model.plates.plates.items()))
    np.testing.assert_array_equal(model.plates.of_plate(cell, time_h, plate), own)
    batch = model.plates.batches[cell, time_h, batch_name(plate)]
    for name in (f"{batch_name(plate)}_X99", batch_name(plate)):
        np.testing.assert_array_equal(model.plates.of_plate(cell, time_h, name), batch)
    fresh = model.plates.factor * model.plates.groups[cell, time_h]
    np.testing.assert_array_equal(model.plates.of_plate(cell, time_h, "ANOTHER_X1"), fresh)


def test_controls_are_those_of_training_plates_only(world: World) -> None:
    dataset = world.dataset
    used = set(open_wells(dataset, "train").index["basal_id"])
    unused = np.array(sorted(set(range(len(dataset.basal))) - used))
    spoilt = replace(dataset)
    spoilt.__dict__["basal_expression"] = dataset.basal_expression.copy()
    spoilt.basal_expression[unused] += 5.0
    ours, theirs = (fit_dataset_controls(each)[0] for each in (dataset, spoilt))
    for name in ("within", "between", "mean"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_a_table_of_similarities_is_tanimoto_for_each_pair(world: World) -> None:
    bits = packed(world.dataset.parent_smiles[:20].tolist())
    wanted = np.stack([tanimoto(own, bits) for own in bits])
    np.testing.assert_allclose(tanimoto_table(bits, bits), wanted, atol=1e-6)


def test_residuals_are_replayed_within_cell_line_and_time() -> None:
    values = np.arange(6, dtype=np.float32)[:, None] * np.ones((6, 3), np.float32) + np.eye(6, 3, dtype=np.float32)
    clouds = ResidualClouds(Residuals(values, [("A", 6.0)] * 2 + [("A", 24.0)] * 4), seed=0)
    mean, keys = np.zeros((200, 3), np.float32), np.arange(200)
    of_group = clouds.random_residual(mean, [("A", 6.0)] * 200, keys)
    assert {tuple(row) for row in of_group} == {tuple(row) for row in values[:2]}
    of_any = clouds.random_residual(mean, [("B", 6.0)] * 200, keys)
    assert {tuple(row) for row in of_any} == {tuple(row) for row in values}
    again, further = (clouds.random_residual(mean, [("B", 6.0)] * 200, keys, number) for number in (0, 1))
    np.testing.assert_array_equal(of_any, again)
    assert (further != again).any()
    np.testing.assert_array_equal(clouds.random_residual(mean[:9], [("B", 6.0)] * 9, keys[:9]), of_any[:9])


def test_a_planted_mixture_of_sizes_is_drawn_again() -> None:
    """A Gaussian of the same covariance has neither the spread of sizes nor the tails."""
    rng = np.random.default_rng(0)
    n, n_genes = 3000, 60
    factor = rng.normal(size=(n_genes, 3))
    shapes = rng.normal(size=(n, 3)) @ factor.T + rng.normal(size=(n, n_genes))
    values = (np.exp(0.4 * rng.normal(size=(n, 1))) * shapes).astype(np.float32)
    clouds = ResidualClouds(Residuals(values, [("A", 6.0)] * n), seed=0)
    drawn = clouds.gaussian_size(np.zeros_like(values), np.arange(n))
    unit = values.std(axis=0)
    spreads = [np.log(np.sqrt(((x / unit) ** 2).mean(axis=1))).std() for x in (values, drawn)]
    assert spreads[1] == pytest.approx(spreads[0], rel=0.15)
    np.testing.assert_allclose(drawn.std(axis=0), unit, rtol=0.15)
    kurtosis = [float(((x / x.std(axis=0)) ** 4).mean()) for x in (values, drawn)]
    assert min(kurtosis) > 3.5
    # Sizes drawn apart from shapes weaken correlations, as loud wells are loud along common factors.
    assert np.abs(np.corrcoef(drawn.T) - np.corrcoef(values.T)).mean() < 0.1


def test_a_model_is_judged_beside_clouds_around_its_own_mean(world: World) -> None:
    bundle = random_bundle(world, "target=effects", "effects.landmarks=150")
    base = bundle.target_base()
    assert isinstance(base, MeanModel)
    groups, tensors = residual_parts(base, world.dataset, 0)
    metadata = bundle.metadata | {"residual_groups": groups}
    bundle = replace(bundle, metadata=metadata, tensors={**bundle.tensors, **tensors})
    wells = load_wells(world.dataset, "test").take(np.arange(20))
    inputs = model_inputs(world.dataset, bundle, wells.frame["compound_id"].to_numpy(), "ldm")
    rows = {(row.model, row.kind): row for row in Model(inputs, (4,), 0, 2).predict(wells)}
    mean = rows["ldm", "mean_direct"].y_hat
    kept = {tuple(np.round(row, 2)) for row in bundle.residuals().values[:, :5].tolist()}  # type: ignore[union-attr]
    for name in ("ldm-random-residual", "ldm-gaussian-size"):
        assert len(rows[name, "one_draw"].more_draws) == 1
    replayed = rows["ldm-random-residual", "one_draw"].y_hat - mean
    assert all(tuple(np.round(row, 2)) in kept for row in replayed[:, :5].tolist())
    start = rows["ldm", "mean_direct"].start
    assert start is not None
    of_group = mean - start
    assert np.abs(of_group).max() < np.abs(mean - wells.basal).max()


def test_a_fold_without_training_wells_leaves_the_others_in_their_places(world: World, tmp_path: Path) -> None:
    """As in cross-validation, where one fold is the validation side."""
    dataset = fold_dataset(world.dataset, 1, Store(str(tmp_path / "fold")))
    model = fit_mean_model(dataset, SETTINGS, 0)
    effects = model.compounds
    assert len(effects.without_fold) == 5
    torch.testing.assert_close(effects.without_fold[1], effects.coefficients)
    for number in (0, 2, 3, 4):
        assert not torch.allclose(effects.without_fold[number], effects.coefficients)


def test_a_rival_takes_no_part_of_its_answer_from_the_mean_model(world: World, tmp_path: Path) -> None:
    run = Run(kind="prnet", dataset=world.dataset, out=str(tmp_path), config=small_config("target=effects"))
    assert base_of(run).target == "absolute"
    assert base_of(replace(run, kind="vae", config=small_config("target=effects", "effects.landmarks=20"))).compounds
