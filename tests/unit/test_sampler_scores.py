"""Which sampler is recommended: the scores on a real small model, and the rule on made-up ones."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ldm_ray.bundle.bundle import save_bundle
from ldm_ray.cli.app import app
from ldm_ray.diffusion.samplers import SamplerChoice
from ldm_ray.errors import BundleError
from ldm_ray.evaluation.samplers import SamplerScore, candidates, recommended, score_samplers
from ldm_ray.prediction.predictor import Predictor, Query
from tests.bundles import SMILES, random_bundle
from tests.conftest import World


def test_the_full_chain_is_as_near_as_itself_and_bad_samplers_are_not(world: World) -> None:
    bundle = random_bundle(world)
    choices = [SamplerChoice(steps=50), SamplerChoice(steps=25), SamplerChoice("ddim", 2)]
    told: list[tuple[int, int]] = []
    full, half, bad = score_samplers(
        bundle, world.dataset, "valid", 12, 40, choices, lambda done, total: told.append((done, total))
    )
    assert told[-1] == (5, 5)
    # The same seed as the full chain's second run: the very same samples.
    assert full.energy_ratio == pytest.approx(1.0)
    assert full.mean_rmse_ratio == pytest.approx(1.0)
    assert full.spread_ratio == pytest.approx(1.0)
    assert full.within_tolerance
    assert half.profiles_per_s > 0
    assert 0.5 < half.coverage <= 1.0
    assert bad.energy_ratio > 1.05
    assert bad.spread_ratio < 0.95
    assert not bad.within_tolerance
    with pytest.raises(BundleError, match="measured on a bundle of kind 'ldm'; got 'vae'"):
        score_samplers(type(bundle)("vae", bundle.config, {}, {}), world.dataset)


def test_the_cheapest_within_tolerance_is_recommended() -> None:
    def score(steps: int, energy: float, spread: float = 1.0) -> SamplerScore:
        return SamplerScore(SamplerChoice(steps=steps), 1000.0 / steps, energy, 1.0, spread, 0.9)

    nan = SamplerScore(SamplerChoice(steps=2), 9e9, float("nan"), 1.0, 1.0, 0.9)
    best = score(8, 1.05)
    assert recommended([nan, score(4, 1.3), score(5, 1.0, spread=0.97), score(8, 1.09), best, score(25, 1.0)]) is best
    assert recommended([score(4, 1.3), nan]) is None
    assert all(choice.steps <= 9 for choice in candidates(9))


def test_the_recommended_sampler_is_kept_and_used(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    save_bundle(random_bundle(world), str(folder))
    before = (folder / "weights.safetensors").read_bytes()
    command = ["bench", "samplers", "--bundle", str(folder), "--data", world.dataset.url, "--json"]
    command += ["--wells", "12", "--samples", "24"]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    assert len(result["samplers"]) == len(candidates(50))
    predictor = Predictor.from_bundle(str(folder))
    assert result["recommended"] is not None
    assert asdict(predictor.sampler_choice()) == result["recommended"]
    query = [Query(SMILES, 10.0, 24.0, "SIMC001")]
    steps = result["recommended"]["steps"]
    np.testing.assert_array_equal(predictor.predict(query).mean, predictor.predict(query, steps=steps).mean)
    assert (folder / "weights.safetensors").read_bytes() == before
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "metadata.json").unlink()
    missing = CliRunner().invoke(app, [*command[:3], str(other), *command[4:]])
    assert missing.exit_code != 0
