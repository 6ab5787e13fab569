"""Bundles and predictions, on a tiny real model with random weights."""

import json
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from ldm_ray.bundle.bundle import check_splits, load_bundle, save_bundle
from ldm_ray.data.wells import Wells, load_wells
from ldm_ray.diffusion.samplers import SamplerChoice
from ldm_ray.errors import BundleError, DataError, QueryError
from ldm_ray.evaluation.calibration import calibrate
from ldm_ray.evaluation.predictions import Model, model_inputs
from ldm_ray.models.generate import Sampling
from ldm_ray.prediction.bulk.tables import read_queries, write_predictions
from ldm_ray.prediction.predictor import Predictor, Query
from tests.bundles import SMILES, random_bundle
from tests.conftest import World

HOW = Sampling(4, SamplerChoice(steps=5), seed=0)


def model_of(predictor: Predictor, world: World, wells: Wells) -> Model:
    inputs = model_inputs(world.dataset, predictor.bundle, wells.frame["compound_id"].to_numpy(), "ldm")
    return Model(inputs, (4,), seed=0)


@pytest.fixture(scope="module")
def predictor(world: World) -> Predictor:
    return Predictor(random_bundle(world))


def test_bundle_round_trip_predicts_the_same(world: World, predictor: Predictor, tmp_path: Path) -> None:
    save_bundle(predictor.bundle, str(tmp_path / "bundle"))
    loaded = Predictor.from_bundle(str(tmp_path / "bundle"))
    query = [Query(SMILES, 10.0, 24.0, "SIMC001")]
    np.testing.assert_array_equal(loaded.predict(query).mean, predictor.predict(query).mean)
    assert {path.name for path in (tmp_path / "bundle").iterdir()} == {
        "config.json", "weights.safetensors", "metadata.json", "README.md",
    }  # fmt: skip


def test_a_query_alone_or_among_many_gets_one_answer(predictor: Predictor) -> None:
    one = Query(SMILES, 3.3, 24.0, "SIMC002")
    many = [Query("C" * (1 + i % 9) + "O", 0.1 * (1 + i), 6.0, "SIMC001") for i in range(255)]
    alone = predictor.predict([one], n_draws=2)
    among = predictor.predict([*many[:100], one, *many[100:]], n_draws=2)
    for name in ("mean", "std", "draws"):
        np.testing.assert_allclose(getattr(alone, name)[0], getattr(among, name)[100], rtol=1e-5, atol=1e-5)


def test_same_seed_same_numbers_other_seed_others(predictor: Predictor) -> None:
    query = [Query(SMILES, 10.0, 24.0, "SIMC001")]
    first, again, other = (predictor.predict(query, seed=seed).mean for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_salts_and_spellings_are_one_compound(predictor: Predictor) -> None:
    spellings = [SMILES, "OC(=O)c1ccccc1OC(C)=O", "CC(=O)Oc1ccccc1C(=O)[O-].[Na+]"]
    means = predictor.predict([Query(text, 10.0, 24.0, "SIMC001") for text in spellings]).mean
    np.testing.assert_allclose(means, np.broadcast_to(means[0], means.shape), atol=1e-5)


def test_more_samples_share_the_first_ones(predictor: Predictor) -> None:
    """Noise belongs to the draw's number, so asking for more draws keeps the first ones."""
    query = [Query(SMILES, 10.0, 24.0, "SIMC001")]
    few, more = predictor.predict(query, n_samples=2, n_draws=2), predictor.predict(query, n_samples=8, n_draws=2)
    np.testing.assert_allclose(few.draws, more.draws, atol=1e-5)


def test_std_is_that_of_draws(predictor: Predictor) -> None:
    prediction = predictor.predict([Query(SMILES, 10.0, 24.0, "SIMC001")], n_samples=4000, n_draws=4000)
    ratio = prediction.draws[0].std(axis=0) / prediction.std[0]
    assert np.abs(ratio - 1).max() < 0.08
    standard_error = prediction.std[0] / 4000**0.5
    assert (np.abs(prediction.draws[0].mean(axis=0) - prediction.mean[0]) < 5 * standard_error).all()


def test_nearest_time_is_taken_and_said(predictor: Predictor) -> None:
    exact, near = predictor.predict([Query(SMILES, 1.0, t, "SIMC001") for t in (24.0, 23.0)]).notes
    assert "control of" not in exact
    assert "control of SIMC001 taken at 24 h, the nearest time" in near


def test_a_basal_profile_may_stand_for_a_cell_line(predictor: Predictor) -> None:
    basal = np.linspace(4, 12, 978)
    prediction = predictor.predict([Query(SMILES, 1.0, 24.0, basal=basal)])
    np.testing.assert_allclose(prediction.basal[0], basal, rtol=1e-6)


def test_a_cell_line_may_be_written_otherwise_where_it_is_clear_which_is_meant(
    world: World, predictor: Predictor
) -> None:
    exact, other = (predictor.predict([Query(SMILES, 1.0, 23.0, cell)]) for cell in ("SIMC001", "simc-001"))
    np.testing.assert_array_equal(exact.mean, other.mean)
    said = "cell line 'simc-001' read as SIMC001; "
    assert said in other.notes[0]
    assert other.notes[0].replace(said, "") == exact.notes[0]
    assert other.out_of_domain.tolist() == exact.out_of_domain.tolist()
    bundle, names = random_bundle(world), {"SIMC001": "TT", "SIMC002": "T-T", "SIMC003": "697"}
    cells = [entry | {"cell": names[entry["cell"]]} for entry in bundle.metadata["cells"]]
    reader = Predictor(replace(bundle, metadata=bundle.metadata | {"cells": cells})).reader
    assert [reader.prepare(Query(SMILES, 1.0, 24.0, cell)).cell for cell in ("TT", "T-T", "697")] == [
        "TT",
        "T-T",
        "697",
    ]
    with pytest.raises(QueryError, match="^line 7: cell line 'tt' may be T-T or TT; write the one that is meant$"):
        reader.prepare(Query(SMILES, 1.0, 24.0, "tt", place="line 7"))
    assert reader.prepare(Query(SMILES, 1.0, 24.0, "tt", np.ones(978))).cell == "tt"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query(SMILES, 1.0, 24.0, "SIMC0001"), "cell line 'SIMC0001' is not in the bundle; near matches: SIMC001"),
        (Query(SMILES, 1.0, 24.0, ""), "is not in the bundle; known: SIMC001"),
        (Query("not a molecule", 1.0, 24.0, "SIMC001"), "smiles must be a molecule that RDKit can parse"),
        (Query("", 1.0, 24.0, "SIMC001"), "smiles must be a molecule"),
        (Query("C" * 5000, 1.0, 24.0, "SIMC001"), "smiles must be a molecule"),
        (Query(SMILES, 0.0, 24.0, "SIMC001"), "dose_um must be a number above 0; got 0.0"),
        (Query(SMILES, float("nan"), 24.0, "SIMC001"), "dose_um must be a number above 0; got nan"),
        (Query(SMILES, 1.0, -6.0, "SIMC001"), "time_h must be a number above 0; got -6.0"),
        (Query(SMILES, 1.0, float("inf"), "SIMC001"), "time_h must be a number above 0; got inf"),
        (Query(SMILES, 1.0, 6.0, basal=np.ones(5)), "basal must be 978 finite log2 values; got shape (5,)"),
    ],
)
def test_bad_queries_are_one_clear_line(predictor: Predictor, query: Query, message: str) -> None:
    with pytest.raises(QueryError) as caught:
        predictor.predict([query])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    with pytest.raises(QueryError) as among_others:
        predictor.predict([Query(SMILES, 1.0, 24.0, "SIMC001"), query])
    assert str(among_others.value) == f"query 1 (counted from 0): {caught.value}"


def test_bad_numbers(predictor: Predictor) -> None:
    query = [Query(SMILES, 1.0, 24.0, "SIMC001")]
    for arguments, message in (
        ({"n_samples": 0}, "n_samples must be at least 1"),
        ({"steps": 1}, "steps must be between 2 and 50"),
        ({"steps": 51}, "steps must be between 2 and 50"),
        ({"n_draws": 99}, "n_draws must be between 0 and n_samples"),
    ):
        with pytest.raises(QueryError, match=message):
            predictor.predict(query, **arguments)  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="at least one query"):
        predictor.predict([])


def test_other_genes_are_refused(world: World, predictor: Predictor) -> None:
    genes = world.dataset.manifest["genes"]
    predictor.bundle.check_genes(genes, "data")
    with pytest.raises(BundleError, match="gene 0 of data must be SIMG0001"):
        predictor.bundle.check_genes([genes[1], genes[0], *genes[2:]], "data")
    with pytest.raises(BundleError, match="must have the bundle's 978 genes; got 977"):
        predictor.bundle.check_genes(genes[:-1], "data")
    renamed = [gene | {"symbol": "other vintage"} for gene in genes]
    predictor.bundle.check_genes(renamed, "data")  # Entrez ids decide


def test_damaged_and_foreign_bundles(predictor: Predictor, tmp_path: Path) -> None:
    url = str(tmp_path / "bundle")
    with pytest.raises(BundleError, match="is not a model bundle"):
        load_bundle(url)
    save_bundle(predictor.bundle, url)
    with pytest.raises(BundleError, match="must be a bundle of kind 'vae'; got 'ldm'"):
        load_bundle(url, "vae")
    weights = tmp_path / "bundle" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(BundleError, match="is damaged"):
        load_bundle(url)
    metadata = json.loads((tmp_path / "bundle" / "metadata.json").read_text())
    (tmp_path / "bundle" / "metadata.json").write_text(json.dumps(metadata | {"format_version": 99}))
    with pytest.raises(BundleError, match="must have bundle format 2; got 99"):
        load_bundle(url)
    (tmp_path / "bundle" / "metadata.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        load_bundle(url)


def test_nan_weights_are_an_error_not_an_answer(world: World) -> None:
    bundle = random_bundle(world)
    bundle.tensors["ldm.denoiser.output.bias"][0] = float("nan")
    with pytest.raises(BundleError, match="NaN or infinite"):
        Predictor(bundle).predict([Query(SMILES, 1.0, 24.0, "SIMC001")])


def test_compound_without_effect_returns_basal(world: World) -> None:
    """With target delta and a decoder that returns 0, the prediction is the control."""
    bundle = random_bundle(world)
    for name, value in bundle.tensors.items():
        if name.startswith("vae.decoder"):
            value.zero_()
    prediction = Predictor(bundle).predict([Query(SMILES, 1.0, 24.0, "SIMC001")])
    np.testing.assert_array_equal(prediction.mean, prediction.basal)


def test_batch_size_of_sampling_changes_nothing(world: World, predictor: Predictor) -> None:
    wells = load_wells(world.dataset, "test", max_profiles=40)
    condition = model_of(predictor, world, wells).condition(wells)
    base, keys = torch.from_numpy(wells.basal), torch.from_numpy(wells.keys)
    small, large = (
        Predictor(random_bundle(world, f"predict.rows_per_batch={rows}")).sampler.sample(condition, base, keys, HOW)
        for rows in (8, 4096)
    )
    torch.testing.assert_close(small.mean, large.mean, rtol=1e-5, atol=1e-5)


def test_direct_mean_needs_no_samples(world: World, predictor: Predictor) -> None:
    wells = load_wells(world.dataset, "test", max_profiles=5)
    condition = model_of(predictor, world, wells).condition(wells)
    mean = predictor.sampler.direct_mean(condition, torch.from_numpy(wells.basal))
    assert mean.shape == (5, 978)


@pytest.mark.parametrize("name", ["q.csv", "q.parquet", "q.tsv"])
def test_tables_of_queries(predictor: Predictor, tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame({"smiles": [SMILES, "CCO"], "cell": "SIMC001", "dose_um": [1.0, 2.0], "time_h": 24})
    path = tmp_path / name
    if name.endswith("parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="," if name.endswith("csv") else "\t")
    queries = read_queries(str(path))
    predictions = predictor.predict(queries)
    write_predictions(str(tmp_path / "out.parquet"), queries, predictions)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.metadata[b"genes"].decode().split("\t") == list(predictions.genes)
    np.testing.assert_array_equal(np.stack(table["mean"].to_numpy()), predictions.mean)
    write_predictions(str(tmp_path / "out.h5ad"), queries, predictions)
    adata = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(adata.layers["delta"], predictions.delta)
    assert adata.obs["smiles"].tolist() == [SMILES, "CCO"]


def test_direct_mean_is_the_limit_of_sampled_means(world: World) -> None:
    """With a denoiser that always returns the same x0_hat, every sample is that latent."""
    bundle = random_bundle(world, "denoiser.head=x0")
    bundle.tensors["ldm.denoiser.output.weight"].zero_()
    bundle.tensors["ldm.denoiser.output.bias"] = torch.linspace(-1, 1, 16)
    predictor = Predictor(bundle)
    wells = load_wells(world.dataset, "test", max_profiles=3)
    condition, base = model_of(predictor, world, wells).condition(wells), torch.from_numpy(wells.basal)
    samples = predictor.sampler.sample(condition, base, torch.from_numpy(wells.keys), HOW)
    torch.testing.assert_close(predictor.sampler.direct_mean(condition, base), samples.mean, rtol=1e-5, atol=1e-5)


def test_data_split_otherwise_is_refused(predictor: Predictor, world: World) -> None:
    splits = world.dataset.manifest["splits"]
    check_splits(predictor.bundle, splits, "data")
    with pytest.raises(BundleError, match="its test compounds leak"):
        check_splits(predictor.bundle, splits | {"seed": 1}, "data")


def test_a_bundle_without_its_parts_is_damaged(predictor: Predictor, tmp_path: Path) -> None:
    url = str(tmp_path / "bundle")
    tensors = {name: value for name, value in predictor.bundle.tensors.items() if name != "noise.sd"}
    save_bundle(replace(predictor.bundle, tensors=tensors), url)
    with pytest.raises(BundleError, match="is damaged: it lacks 'noise.sd'"):
        load_bundle(url)
    save_bundle(replace(predictor.bundle, tensors=predictor.bundle.tensors | {"vae.mu_head.bias": torch.zeros(3)}), url)
    with pytest.raises(BundleError, match="weights do not fit its settings"):
        Predictor.from_bundle(url)


def test_another_encoder_revision_is_refused(predictor: Predictor) -> None:
    other = predictor.bundle.metadata | {"encoder": predictor.bundle.metadata["encoder"] | {"revision": "x"}}
    with pytest.raises(BundleError, match="the bundle's encoder is"):
        Predictor(replace(predictor.bundle, metadata=other))


def test_queries_far_from_training_are_flagged(world: World, predictor: Predictor) -> None:
    frame = world.dataset.profiles(["compound_id", "dose_um", "time_h"], "train").to_pandas()
    known = str(world.dataset.parent_smiles[frame["compound_id"][0]])
    queries = [
        Query(known, 10.0, 24.0, "SIMC001"),
        Query("OCC1OC(O)C(O)C(O)C1O", 10.0, 24.0, "SIMC001"),
        Query(known, 5000.0, 300.0, "SIMC001"),
        Query(known, 10.0, 24.0, basal=predictor.predict([Query(known, 1, 24, "SIMC001")]).basal[0]),
    ]
    answer = predictor.predict(queries)
    assert answer.out_of_domain.tolist() == [False, True, True, True]
    assert answer.similarity[0] == 1.0
    assert answer.similarity[1] < 0.3
    expected = ("", "nearest training compound has", "dose_um 5000 outside the training range", "cell line unknown")
    for note, text in zip(answer.notes, expected, strict=True):
        assert text in note
    assert "time_h 300 outside" in answer.notes[2]
    fingerprints = [Chem.MolFromSmiles(text) for text in (queries[1].smiles, known)]
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    train = [Chem.MolFromSmiles(str(world.dataset.parent_smiles[i])) for i in set(frame["compound_id"])]
    bits = [generator.GetFingerprint(molecule) for molecule in train]
    nearest = max(DataStructs.BulkTanimotoSimilarity(generator.GetFingerprint(fingerprints[0]), bits))
    assert answer.similarity[1] == pytest.approx(nearest)


def test_a_prediction_says_which_part_of_the_query_it_used(predictor: Predictor) -> None:
    asked = (f"{SMILES}.NC(CO)(CO)CO", SMILES, "N.N.Cl[Pt]Cl")
    salt, alone, metal = (Query(smiles, 10.0, 24.0, "SIMC001") for smiles in asked)
    answer = predictor.predict([salt, alone, metal])
    np.testing.assert_array_equal(answer.mean[0], answer.mean[1])
    assert answer.notes[0].endswith(f"used {SMILES}, left out tromethamine")
    assert "left out" not in answer.notes[1]
    assert answer.notes[2].endswith("metal compound: its SMILES does not tell reliably what is bound")


def test_spreads_are_scaled_to_cover_validation_wells(world: World, predictor: Predictor) -> None:
    bundle = calibrate(predictor.bundle, world.dataset)
    wells = load_wells(world.dataset, "valid", bundle.config.predict.calibration_wells, bundle.config.seed)
    samples = model_of(predictor, world, wells)
    drawn = samples.sample(wells, bundle.config.predict.n_samples)
    z = (wells.y - drawn.mean.numpy()) / (drawn.std * bundle.tensors["sd_scale"]).numpy()
    np.testing.assert_allclose((z**2).mean(axis=0), 1.0, rtol=1e-3)
    query = [Query(SMILES, 10.0, 24.0, "SIMC001")]
    ratio = Predictor(bundle).predict(query).std / predictor.predict(query).std
    np.testing.assert_allclose(ratio[0], bundle.tensors["sd_scale"].numpy(), rtol=1e-5)
