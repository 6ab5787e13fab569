"""Nothing fitted depends on the measurements of the test side."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from ldm_ray.bundle.domain import training_domain
from ldm_ray.bundle.stored_effects import stored_effects
from ldm_ray.chem.fingerprint import MorganEncoder
from ldm_ray.data.controls import mean_controls
from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.parts import write_wells
from ldm_ray.data.slices import profile_files
from ldm_ray.data.wells import load_wells, open_wells
from ldm_ray.data_settings import EffectsSettings
from ldm_ray.effects.fit import fit_mean_model
from ldm_ray.evaluation.baselines.fit import Baselines, fit_baselines
from ldm_ray.evaluation.baselines.truth import open_truth
from ldm_ray.layout import BASAL, CELLS, COMPOUNDS, MANIFEST, TRUTH
from ldm_ray.models.vae import Vae
from ldm_ray.storage.store import Store, list_column, matrix
from ldm_ray.training.loop import run_fit, start_fit
from ldm_ray.training.moments import fit_observation_noise, target_moments
from ldm_ray.training.rows import Tables
from ldm_ray.training.steps import VaeTask
from tests.conftest import World, resident_source


@pytest.fixture(scope="module")
def shuffled(world: World, tmp_path_factory: pytest.TempPathFactory) -> PairedDataset:
    """The same dataset with the measurements of its test wells shuffled among them."""
    store, original = Store(str(tmp_path_factory.mktemp("shuffled"))), world.dataset
    for name in (BASAL, COMPOUNDS, CELLS, TRUTH):
        store.write_bytes(name, original.store.read_bytes(name))
    entries = []
    for entry in original.manifest["files"]:
        table = original.store.read_table(entry["path"])
        y, test = np.array(matrix(table["expression"])), np.array(table["split"].to_pylist()) == "test"
        y[test] = np.random.default_rng(0).permutation(y[test]) + 1.0
        place = table.schema.get_field_index("expression")
        column = pa.chunked_array([list_column(y)])
        entries.append(write_wells(store, entry["path"], table.set_column(place, "expression", column)))
    store.write_json(MANIFEST, original.manifest | {"files": entries})
    return open_dataset(store.url)


def fitted_baselines(dataset: PairedDataset) -> Baselines:
    fingerprints = MorganEncoder().encode(dataset.parent_smiles.tolist())
    sides = (open_wells(dataset, side) for side in ("train", "valid"))
    return fit_baselines(*sides, fingerprints, open_truth(dataset), seed=0, rows_per_block=500)  # type: ignore[arg-type]


def test_no_baseline_moves(world: World, shuffled: PairedDataset) -> None:
    asked = load_wells(world.dataset, "test")
    assert np.abs(load_wells(shuffled, "test").y - asked.y).max() > 1
    ours, theirs = (fitted_baselines(dataset).predict(asked) for dataset in (world.dataset, shuffled))
    for row, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(row.y_hat, other.y_hat, row.model)


def test_no_weight_scale_or_noise_moves(world: World, shuffled: PairedDataset) -> None:
    """Scaling, an epoch of the autoencoder, the observation noise, stored controls and the domain."""
    found = []
    for dataset in (world.dataset, shuffled):
        config = world.config
        source = resident_source(profile_files(dataset, config.ingest), config, 64, 0, 1)
        basal = torch.from_numpy(dataset.basal_expression.copy())
        tables = Tables(basal, basal, torch.zeros(1, 1), basal)
        torch.manual_seed(0)
        vae = Vae(dataset.n_genes, config.vae)
        vae.set_scaling(*target_moments(source, tables))
        task = VaeTask(vae, tables, config)
        fit = start_fit(task.module, config.train_vae)
        run_fit(fit, task, source, config.train_vae, 0, _Quiet())
        noise = fit_observation_noise(vae.eval(), source, tables, 0, 4)
        state = [value.numpy() for value in vae.state_dict().values()]
        domain, bits = training_domain(dataset)
        found.append([*state, noise.sd.numpy(), noise.factor.numpy(), mean_controls(dataset)[1], bits, str(domain)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_no_effect_of_the_mean_model_moves(world: World, shuffled: PairedDataset) -> None:
    """Nor does any with other reserved controls."""
    reserved = replace(world.dataset)
    own = np.array(world.dataset.basal["role"].to_pylist()) == "reserved"
    reserved.__dict__["basal_expression"] = world.dataset.basal_expression + np.float32(own[:, None])
    ours, *others = (
        stored_effects(fit_mean_model(dataset, EffectsSettings(landmarks=150), 0))
        for dataset in (world.dataset, shuffled, reserved)
    )
    for stored, tensors in others:
        assert stored == ours[0]
        for name, value in tensors.items():
            torch.testing.assert_close(value, ours[1][name], rtol=0, atol=0)


class _Quiet:
    def on_step(self, step: int, total: int, epoch: int, loss: torch.Tensor) -> None: ...
    def report(self, metrics: object, state: object) -> None: ...


def test_no_parent_structure_is_on_two_sides(world: World) -> None:
    wells = world.dataset.profiles(["compound_id", "split"]).to_pandas()
    parents = world.dataset.parent_smiles[wells["compound_id"].to_numpy()]
    sides = {side: set(parents[(wells["split"] == side).to_numpy()]) for side in ("train", "valid", "test")}
    assert not sides["train"] & sides["test"]
    assert not sides["valid"] & sides["test"]
