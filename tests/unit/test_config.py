"""Settings: layers, presets and one clear line for every mistake."""

from pathlib import Path

import pytest
import yaml

from ldm_ray.config import SHIPPED, Config, deciding, dump_config, load_config, read_settings, shipped_configs
from ldm_ray.errors import SettingsError


def test_later_layers_win(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("preset: paper\nvae:\n  latent_dim: 32\n  kl_weight: 2.0\n")
    config = load_config(path, ["vae.kl_weight=3"])
    assert (config.vae.latent_dim, config.vae.kl_weight) == (32, 3.0)  # file, override
    assert (config.target, config.denoiser.head) == ("absolute", "v")  # preset
    assert config.schedule.num_steps == 1000  # default


def test_saved_settings_load_to_the_same(tmp_path: Path) -> None:
    config = load_config(None, ["preset=paper", "evaluate.n_samples=[4, 8]"])
    path = tmp_path / "settings.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("vae.kl_wait=1", "settings key 'vae.kl_wait' does not exist; did you mean 'vae.kl_weight'?"),
        ("train_vae.epoch=1", "did you mean 'train_vae.epochs'?"),
        ("vae.kl_weight=-1", "settings key 'vae.kl_weight': input should be greater than or equal to 0; got -1"),
        ("vae.kl_weight=.nan", "settings key 'vae.kl_weight'"),
        ("denoiser.head=eps", "settings key 'denoiser.head'"),
        ("preset=papers", "preset must be one of default, paper, paper-literal; got 'papers'"),
        ("preset=[paper]", "preset must be one of default, paper, paper-literal; got ['paper']"),
        ("table1.seeds=[0, 0]", "each seed must be named once; got [0, 0]"),
        ("table1.seeds=[]", "settings key 'table1.seeds': tuple should have at least 1 item"),
        ("vae", "--set must be key.path=value; got 'vae'"),
        ("vae=3", "settings key 'vae'"),
    ],
)
def test_mistakes_are_one_clear_line(override: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_config(None, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load_config(tmp_path / "none.yaml")
    path = tmp_path / "bad.yaml"
    path.write_text("a: [1,")
    with pytest.raises(SettingsError, match="is not YAML"):
        load_config(path)
    path.write_text("- 1")
    with pytest.raises(SettingsError, match="must hold a mapping; got list"):
        load_config(path)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().vae.latent_dim = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_settings_load(name: str) -> None:
    assert load_config(name) == load_config(SHIPPED / f"{name}.yaml")


def test_a_name_means_the_shipped_file_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"demo", "paper", "mini", "longer"} < set(shipped_configs())
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "mine", "mine.yaml"):
        (tmp_path / name).write_text("seed: 7\n")
    assert load_config("demo").seed == 0
    assert [load_config(path).seed for path in ("./demo", "mine.yaml", "./mine", tmp_path / "mine")] == [7] * 4
    with pytest.raises(
        SettingsError, match=r"--config must be one of demo, .*, tune_two_stage, or .* \./mine; got 'mine'$"
    ):
        load_config("mine")


def test_naming_one_key_of_a_group_leaves_the_others(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("train_prnet:\n  epochs: 3\ntrain_vae:\n  epochs: 7\n")
    config, default = load_config(file, ["train_pertdit.epochs=5"]), load_config()
    for name, epochs in (("train_prnet", 3), ("train_vae", 7), ("train_pertdit", 5)):
        assert getattr(config, name) == getattr(default, name).model_copy(update={"epochs": epochs})
    assert default == Config()


def test_settings_written_before_some_existed_are_read_with_their_defaults() -> None:
    config = load_config(None, ["preset=paper", "predict.steps=7", "serve.port=9000"])
    text = dump_config(config)
    assert read_settings(text) == config
    older = yaml.safe_load(text)
    del older["serve"], older["predict"]["correction"]
    assert read_settings(yaml.safe_dump(older)) == config.model_copy(update={"serve": Config().serve})
    assert deciding(read_settings(yaml.safe_dump(older))) == deciding(config)
    assert deciding(config) != deciding(load_config(None, ["preset=paper", "predict.steps=8"]))


def test_small_data_get_more_epochs_until_there_are_enough_steps() -> None:
    training = load_config(None, ["train_ldm.min_steps=1000", "train_ldm.epochs=30"]).train_ldm
    long = [training.long_enough(n) for n in (100, 2600, 1_000_000)]
    assert [settings.epochs for settings in long] == [1000, 100, 30]
    assert [settings.early_stopping_epochs for settings in long] == [500, 50, 15]  # patience in shares of the run
