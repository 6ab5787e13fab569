"""The settings: frozen models, a preset, then a YAML file, then `--set key.path=value`."""

import difflib
import json
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ldm_ray.errors import SettingsError

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Width = Annotated[int, Field(ge=1)]
Basal = Literal["mean", "well"]
Target = Literal["absolute", "delta"]
Head = Literal["mean", "x0", "v"]
Loss = Literal["nll", "marginal_nll", "hybrid"]
BasalInput = Literal["cell_time", "matched"]
Norm = Literal["none", "layer", "batch"]


MOLFORMER = "ibm/MoLFormer-XL-both-10pct"
MOLFORMER_REVISION = "7b12d946c181a37f6012b9dc3b002275de070314"


class Settings(BaseModel):
    """A frozen group of settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SimulateSettings(Settings):
    """The simulated release (`ldm-ray simulate`)."""

    n_profiles: Annotated[int, Field(ge=500)] = 12_000
    n_cell_lines: Annotated[int, Field(ge=2, le=500)] = 6
    n_compounds: Annotated[int, Field(ge=20)] | None = Field(default=None, description="default: n_profiles / 25")
    n_mechanisms: Annotated[int, Field(ge=2, le=16)] = 16
    replicates: Annotated[int, Field(ge=1, le=9)] = 3
    treated_wells_per_plate: Annotated[int, Field(ge=24, le=320)] = 192
    dmso_wells_per_plate: Annotated[int, Field(ge=1, le=32)] = 12
    well_noise_sd_log2: Annotated[float, Field(gt=0)] = 0.85
    plate_effect_sd_log2: Annotated[float, Field(ge=0)] = 0.35
    treated_plate_effect_sd_log2: Annotated[float, Field(ge=0)] = 0.12
    replicate_delta_correlation: Annotated[float, Field(gt=0, lt=1)] = 0.16
    idiosyncratic_share: Annotated[float, Field(ge=0, lt=1)] = 0.3
    dirt: bool = True
    threads: Annotated[int, Field(ge=1)] = 2


class CleaningSettings(Settings):
    """The paper's section 2.2."""

    min_profiles_per_compound: Annotated[int, Field(ge=1)] = 5


class PairingSettings(Settings):
    """Which controls a treated well is compared with."""

    basal_mode: Basal = "mean"
    min_dmso_wells_to_reserve: Annotated[int, Field(ge=2)] = 4


class SplitSettings(Settings):
    """Hold-out by parent structure, by cell line and by batch of plates."""

    seed: Annotated[int, Field(ge=0)] = 0
    test_fraction: Fraction = 0.2
    valid_fraction: Fraction = 0.2
    n_folds: Annotated[int, Field(ge=2, le=100)] = 5


class PrepareSettings(Settings):
    """How a release is read and the dataset written."""

    block_mb: Annotated[int, Field(ge=1)] = Field(default=128, description="what one task reads at once")
    rows_per_file: Annotated[int, Field(ge=64)] = 16_384
    workers: Annotated[int, Field(ge=0)] = Field(default=0, description="1: no Ray; 0: Ray, where it is worth it")


class IngestSettings(Settings):
    """How treated wells come to training workers (docs/data.md)."""

    mode: Literal["auto", "stream", "resident"] = Field(
        default="auto", description="auto: resident where a worker's wells fit into resident_mb"
    )
    resident_mb: Annotated[int, Field(ge=1)] = 4096
    shuffle_window_rows: Annotated[int, Field(ge=1)] = 32_768
    latents: bool = Field(default=True, description="encode every profile once, before diffusion training")
    wait_for_storage_s: Annotated[float, Field(ge=0)] = Field(
        default=300.0, description="how long a read waits for a store that does not answer; 0: fail at once"
    )


class EncoderSettings(Settings):
    """Compound encoder.

    `ecfp` and `fcfp` are Morgan fingerprints with atom or feature invariants; `molformer` is MoLFormer; `hub` is any
    encoder that transformers knows by itself.
    """

    kind: Literal["ecfp", "fcfp", "molformer", "hub"] = "ecfp"
    radius: Annotated[int, Field(ge=0, le=6)] = 2
    n_bits: Annotated[int, Field(ge=16)] = 2048
    checkpoint: str = Field(default=MOLFORMER, min_length=1, description="name on the hub, or a local folder")
    revision: str = Field(default=MOLFORMER_REVISION, min_length=1, description="of the hub, pinned")
    trust_remote_code: bool = Field(default=False, description="run the hub's own code (kind hub)")


class VaeSettings(Settings):
    """The autoencoder (DESIGN.md section 5)."""

    latent_dim: Width = 128
    encoder_widths: tuple[Width, ...] = (512, 256, 256)
    decoder_widths: tuple[Width, ...] = Field(default=(), description="none: a linear decoder, whose mean is exact")
    residual_decoder: bool = Field(default=False, description="the paper's decoder; decoder_widths are then unused")
    kl_weight: Annotated[float, Field(ge=0)] = 0.01
    reduction: Literal["mean", "sum"] = "mean"
    standardise: bool = True
    observation_noise_rank: Annotated[int, Field(ge=0)] = 16


class ScheduleSettings(Settings):
    """Linear beta, Eq. (4)."""

    num_steps: Annotated[int, Field(ge=2)] = 1000
    beta_first: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    beta_last: Annotated[float, Field(gt=0, lt=1)] = 0.01


class DenoiserSettings(Settings):
    """Condition encoder and denoiser (DESIGN.md section 5)."""

    head: Head = "v"
    loss: Loss = "hybrid"
    vlb_weight: Annotated[float, Field(ge=0)] = 0.001
    basal_input: BasalInput = "cell_time"
    basal_widths: tuple[Width, ...] = (256, 128)
    compound_widths: tuple[Width, ...] = (256, 128)
    scalar_dim: Width = 32
    condition_widths: tuple[Width, ...] = (256, 256)
    hidden_widths: tuple[Width, ...] = (512, 512, 512)
    time_dim: Width = 128
    norm: Norm = "layer"
    dropout: Fraction = 0.4
    compound_dropout: Fraction = 0.7
    raw_inputs: bool = Field(default=False, description="feed dose, time and t untransformed, as published")


class OptimiserSettings(Settings):
    """One training run. The global batch is the same whatever the number of workers."""

    epochs: Annotated[int, Field(ge=1)] = 30
    global_batch_size: Annotated[int, Field(ge=1)] = 256
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    learning_rate_shape: Literal["cosine", "triangle"] = "cosine"
    final_learning_rate_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    gradient_clip_norm: Annotated[float, Field(gt=0)] = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.995
    early_stopping_epochs: Annotated[int, Field(ge=1)] = 15
    checkpoint_every_steps: Annotated[int, Field(ge=1)] = 200


class RaySettings(Settings):
    """What of the cluster a run uses."""

    num_workers: Annotated[int, Field(ge=0)] = Field(default=0, description="0: one per GPU, else two on two cores")
    max_failures: Annotated[int, Field(ge=-1)] = 3
    lanes: Annotated[int, Field(ge=1)] = 16
    object_store_mb: Annotated[int, Field(ge=80)] = 1024


class PredictSettings(Settings):
    """How a bundle is sampled."""

    n_samples: Annotated[int, Field(ge=1)] = 16
    steps: Annotated[int, Field(ge=2)] = 50
    rows_per_batch: Annotated[int, Field(ge=1)] = 1024


class EvaluateSettings(Settings):
    """How predictions are judged (EVALUATION in docs/)."""

    split: Literal["test", "valid"] = "test"
    max_profiles: Annotated[int, Field(ge=0)] = Field(default=0, description="0: all wells; else a seeded sub-sample")
    n_samples: tuple[Annotated[int, Field(ge=2)], ...] = (16,)
    distribution_wells: Annotated[int, Field(ge=16)] = 512
    bootstrap_draws: Annotated[int, Field(ge=10)] = 200
    min_wells_per_cell_line: Annotated[int, Field(ge=1)] = 20
    min_compounds_per_plate: Annotated[int, Field(ge=2)] = 8


class Config(Settings):
    """Every setting of the project; saved beside each result."""

    preset: Literal["default", "paper"] = "default"
    seed: Annotated[int, Field(ge=0)] = 0
    target: Target = "delta"
    # fsspec's arguments by protocol. May hold secrets, so no file that we write repeats them.
    storage_options: dict[str, dict[str, Any]] = Field(default_factory=dict, exclude=True, repr=False)
    simulate: SimulateSettings = SimulateSettings()
    cleaning: CleaningSettings = CleaningSettings()
    pairing: PairingSettings = PairingSettings()
    splits: SplitSettings = SplitSettings()
    prepare: PrepareSettings = PrepareSettings()
    ingest: IngestSettings = IngestSettings()
    encoder: EncoderSettings = EncoderSettings()
    vae: VaeSettings = VaeSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    denoiser: DenoiserSettings = DenoiserSettings()
    train_vae: OptimiserSettings = OptimiserSettings(learning_rate=2e-3)
    train_ldm: OptimiserSettings = OptimiserSettings()
    ray: RaySettings = RaySettings()
    predict: PredictSettings = PredictSettings()
    evaluate: EvaluateSettings = EvaluateSettings()


# Kim & Yoo with the values of their public code where the paper is silent (DESIGN.md section 5).
TRIANGLE = {
    "epochs": 200,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "learning_rate_shape": "triangle",
    "final_learning_rate_share": 0.1,
    "early_stopping_epochs": 200,
    "ema_decay": 0.0,
    "gradient_clip_norm": 1e9,
}
PAPER: dict[str, Any] = {
    "target": "absolute",
    "pairing": {"basal_mode": "well"},
    "vae": {"latent_dim": 256, "kl_weight": 1.0, "standardise": False, "residual_decoder": True},
    "denoiser": {
        "head": "mean",
        "loss": "nll",
        "basal_input": "matched",
        "basal_widths": [512, 512, 256, 256],
        "compound_widths": [512, 256, 256],
        "condition_widths": [512, 256, 256],
        "norm": "batch",
        "dropout": 0.2,
        "compound_dropout": 0.0,
        "raw_inputs": True,
    },
    "train_vae": TRIANGLE,
    "train_ldm": TRIANGLE,
}
PRESETS: dict[str, dict[str, Any]] = {"default": {}, "paper": PAPER}


def load_config(path: str | Path | None = None, overrides: tuple[str, ...] | list[str] = ()) -> Config:
    """Resolve the settings: preset, then the YAML file, then the overrides, later ones winning.

    Args:
        path: A YAML file of settings, or None.
        overrides: Texts `key.path=value`; the value is read as YAML.

    Raises:
        SettingsError: For a key that does not exist (the nearest one is named) or a value that does not fit.
    """
    layer = _read_yaml(Path(path)) if path is not None else {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise SettingsError(f"--set wants key.path=value; got {text!r}")
        layer = _merge(layer, _nest(key.strip().split("."), _parse_value(text, value)))
    preset = layer.get("preset", "default")
    if preset not in PRESETS:
        raise SettingsError(f"preset must be one of {', '.join(PRESETS)}; got {preset!r}")
    return config_from_dict(_merge(PRESETS[preset], layer))


def config_from_dict(values: dict[str, Any]) -> Config:
    """Validate a nested dict of settings, with one clear line for the first mistake."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, setting_keys(), n=1, cutoff=0.0)
            raise SettingsError(f"settings key {key!r} does not exist; did you mean {near[0]!r}?") from None
        message = first["msg"][0].lower() + first["msg"][1:]
        raise SettingsError(f"settings key {key!r}: {message}; got {first['input']!r}") from None


def setting_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Return every dotted settings key."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += setting_keys(field.annotation, f"{prefix}{name}.")
    return keys


def dump_config(config: Config) -> str:
    """Return the resolved settings as YAML, loadable by `--config`."""
    return yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SettingsError(f"--config must be a YAML file; {str(path)!r} does not exist")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config {str(path)!r} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"--config {str(path)!r} must hold a mapping; got {type(values).__name__}")
    return typing.cast("dict[str, Any]", values)


def _parse_value(text: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise SettingsError(f"--set {text!r}: the value is not YAML") from None


def _nest(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return typing.cast("dict[str, Any]", value)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
