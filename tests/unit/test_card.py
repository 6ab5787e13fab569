"""The card in every bundle says what it is, what it was trained on, and that simulated data are not biology."""

from pathlib import Path

from ldm_ray.bundle.bundle import save_bundle, update_metadata
from tests.bundles import random_bundle
from tests.conftest import World


def test_a_bundle_has_a_card(world: World, tmp_path: Path) -> None:
    bundle = random_bundle(world)
    save_bundle(bundle, str(tmp_path))
    card = (tmp_path / "README.md").read_text()
    assert "Trained on simulated data" in card
    assert f"| treated wells in the dataset | {world.dataset.manifest['n_profiles']:,} |" in card
    assert "SIMC001, SIMC002, SIMC003" in card
    assert "It is no evidence of\nefficacy or safety" in card
    update_metadata(str(tmp_path), {"recommended_sampler": bundle.metadata["recommended_sampler"] | {"steps": 7}})
    assert "| sampler | ancestral, 7 steps |" in (tmp_path / "README.md").read_text()


def test_a_card_of_real_data_does_not_speak_of_simulation(world: World, tmp_path: Path) -> None:
    bundle = random_bundle(world)
    bundle.metadata["trained_on"]["simulated"] = False
    save_bundle(bundle, str(tmp_path))
    assert "simulated" not in (tmp_path / "README.md").read_text()
