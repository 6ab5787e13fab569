"""Resolves settings: a preset, then a YAML file, then `--set key.path=value`."""

import difflib
import json
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from ldm_ray.data_settings import (
    CleaningSettings,
    EffectsSettings,
    IngestSettings,
    PairingSettings,
    PrepareSettings,
    SimulateSettings,
    SplitSettings,
)
from ldm_ray.errors import SettingsError
from ldm_ray.settings import (
    RIVAL_FINGERPRINT,
    DenoiserSettings,
    EncoderSettings,
    EvaluateSettings,
    Ic50Settings,
    OptimiserSettings,
    PertditSettings,
    PredictSettings,
    RaySettings,
    ReproduceSettings,
    ScheduleSettings,
    ServeSettings,
    Settings,
    Table1Settings,
    Target,
    TrackSettings,
    TuneSettings,
    VaeSettings,
    optimiser_group,
)

SHIPPED = Path(__file__).parent / "configs"

# The rivals as published (docs/rivals.md); neither averages its weights, and PRnet does not clip.
PRNET = OptimiserSettings(
    epochs=500,
    global_batch_size=512,
    warmup_steps=0,
    learning_rate_shape="plateau",
    weight_decay=1e-8,
    gradient_clip_norm=1e9,
    ema_decay=0.0,
    early_stopping_epochs=21,
)
PERTDIT = OptimiserSettings(
    epochs=200,
    global_batch_size=64,
    warmup_steps=5000,
    warmup_share=0.5,
    cosine_steps=1_000_000,
    ema_decay=0.0,
    early_stopping_epochs=20,
)


class Config(Settings):
    """Every setting of the project; saved beside each result."""

    preset: Literal["default", "paper", "paper-literal"] = "default"
    seed: Annotated[int, Field(ge=0)] = 0
    target: Target = "delta"
    checks: Literal["error", "warn"] = Field(
        default="error",
        description="if a trained part fails a check: error refuses it, warn only says so (docs/model.md)",
    )
    # fsspec's arguments by protocol. May hold secrets, so they are written to no file.
    storage_options: dict[str, dict[str, Any]] = Field(default_factory=dict, exclude=True, repr=False)
    simulate: SimulateSettings = SimulateSettings()
    cleaning: CleaningSettings = CleaningSettings()
    pairing: PairingSettings = PairingSettings()
    splits: SplitSettings = SplitSettings()
    prepare: PrepareSettings = PrepareSettings()
    ingest: IngestSettings = IngestSettings()
    encoder: EncoderSettings = EncoderSettings()
    effects: EffectsSettings = EffectsSettings()
    vae: VaeSettings = VaeSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    denoiser: DenoiserSettings = DenoiserSettings()
    train_vae: OptimiserSettings = OptimiserSettings()
    train_ldm: OptimiserSettings = OptimiserSettings()
    pertdit: PertditSettings = PertditSettings()
    train_prnet: OptimiserSettings = PRNET
    train_pertdit: OptimiserSettings = PERTDIT
    ray: RaySettings = RaySettings()
    track: TrackSettings = TrackSettings()
    predict: PredictSettings = PredictSettings()
    serve: ServeSettings = ServeSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    table1: Table1Settings = Table1Settings()
    reproduce: ReproduceSettings = ReproduceSettings()
    tune: TuneSettings = TuneSettings()
    ic50: Ic50Settings = Ic50Settings()

    def optimiser(self, kind: str) -> OptimiserSettings:
        """Return the training settings of a kind of model."""
        settings: OptimiserSettings = getattr(self, optimiser_group(kind))
        return settings

    def encoded_for(self, kind: str) -> "Config":
        """Return the settings with the compound encoder of a kind of model; some rivals use their own fingerprint."""
        if kind not in ("prnet", "pertdit-ada"):
            return self
        return self.model_copy(update={"encoder": RIVAL_FINGERPRINT})

    @model_validator(mode="after")
    def _fit_together(self) -> "Config":
        """Refuse settings that do not fit together."""
        denoiser, schedule = self.denoiser, self.schedule
        refused = {
            "denoiser.head epsilon divides by zero under schedule.zero_terminal_snr; use v, x0 or mean": (
                denoiser.head == "epsilon" and schedule.zero_terminal_snr
            ),
            "denoiser.loss hybrid needs denoiser.head x0, v or epsilon; got mean": (
                denoiser.loss == "hybrid" and denoiser.head == "mean"
            ),
            "denoiser.min_snr_gamma weighs the simple loss and needs denoiser.loss hybrid": (
                denoiser.min_snr_gamma is not None and denoiser.loss != "hybrid"
            ),
            "denoiser.min_snr_gamma gives the last step no weight under schedule.zero_terminal_snr": (
                denoiser.min_snr_gamma is not None and schedule.zero_terminal_snr
            ),
            "predict.guidance other than 1 needs denoiser.guidance_dropout above 0": (
                self.predict.guidance != 1.0 and not denoiser.guidance_dropout
            ),
            "denoiser.mean_head and denoiser.guidance_dropout exclude each other: the head's mean is not guided": (
                denoiser.mean_head and denoiser.guidance_dropout > 0
            ),
            f"predict.steps must be at most schedule.num_steps = {schedule.num_steps}; got {self.predict.steps}": (
                self.predict.steps > schedule.num_steps
            ),
            f"denoiser.norm_groups must divide ray.lanes = {self.ray.lanes}; got {denoiser.norm_groups}": (
                self.ray.lanes % denoiser.norm_groups != 0
            ),
            "denoiser.time_embedding sinusoidal needs denoiser.time_dim of at least 2; got 1": (
                denoiser.time_embedding == "sinusoidal" and denoiser.time_dim < 2
            ),
            "only train_ldm.keep may be vlb, mse or delta_pcc; the other models have no such measure": (
                not {self.train_vae.keep, self.train_prnet.keep, self.train_pertdit.keep} <= {"last", "loss"}
            ),
        }
        for reason, applies in refused.items():
            if applies:
                raise ValueError(reason)
        return self


# Kim & Yoo with the values of their public code where the paper is silent (docs/model.md).
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
LITERAL: dict[str, Any] = {
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
    "predict": {"steps": 1000},
    "train_vae": TRIANGLE,
    "train_ldm": TRIANGLE,
}
# What lets the published recipe train, each within what the paper states (docs/model.md has the reasons).
REPAIRS: dict[str, Any] = {
    "vae": {"standardise": True, "reduction": "sum", "kl_warmup_steps": 400},
    "denoiser": {"head": "v", "loss": "paired_nll", "step_sampling": "importance", "zero_output": True},
    "train_vae": {"epochs": 20, "min_steps": 1500},
    "train_ldm": {"min_steps": 12_000, "keep": "last"},
}


# Groups whose defaults differ from their class's: a file that names one key must not reset the others.
RIVALS = {"train_prnet": PRNET.model_dump(), "train_pertdit": PERTDIT.model_dump()}


def load_config(path: str | Path | None = None, overrides: tuple[str, ...] | list[str] = ()) -> Config:
    """Resolve the settings: preset, then YAML file, then overrides; later ones win.

    Args:
        path: Name of shipped settings, path or URL of a YAML file, or None. A text with neither a slash nor a YAML
            suffix is always a name, whatever files exist, so that a name means the same everywhere.
        overrides: Texts `key.path=value`; the value is read as YAML.

    Raises:
        SettingsError: If a name, file or key does not exist (the nearest key is named), or a value does not fit.
    """
    return resolved(_read_yaml(str(path)) if path is not None else {}, overrides)


def resolved(layer: dict[str, Any], overrides: tuple[str, ...] | list[str] = ()) -> Config:
    """Lay nested settings, then texts `key.path=value`, over the preset that they name; see `load_config`."""
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise SettingsError(f"--set must be key.path=value; got {text!r}")
        layer = merged(layer, nested(key.strip().split("."), _parse_value(text, value)))
    preset = layer.get("preset", "default")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise SettingsError(f"preset must be one of {', '.join(PRESETS)}; got {preset!r}")
    return config_from_dict(merged(PRESETS[preset], layer))


def shipped_configs() -> list[str]:
    """Return the names of the settings that ship with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def config_from_dict(values: dict[str, Any]) -> Config:
    """Validate nested settings; the first mistake is reported in one line."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, setting_keys(), n=1, cutoff=0.0)
            raise SettingsError(f"settings key {key!r} does not exist; did you mean {near[0]!r}?") from None
        if not key:
            raise SettingsError(str(first["ctx"]["error"])) from None
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


FREE_TO_CHANGE = (
    "checks",
    "ray",
    "track",
    "tune",
    "evaluate",
    "table1",
    "reproduce",
    "ic50",
    "prepare",
    "simulate",
    "serve",
)
"""Keys that do not affect what a training run produces."""


def deciding(config: Config) -> dict[str, Any]:
    """Return the settings that must not change when a run is resumed."""
    return config.model_dump(mode="json", exclude=set(FREE_TO_CHANGE))


def dump_config(config: Config) -> str:
    """Return the resolved settings as YAML that `--config` can load."""
    return yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False)


def read_settings(text: str | bytes) -> Config:
    """Read what `dump_config` wrote; settings added since then take their defaults."""
    return config_from_dict(yaml.safe_load(text))


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(_text_of(path)) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config {path!r} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"--config {path!r} must hold a mapping; got {type(values).__name__}")
    return typing.cast("dict[str, Any]", values)


def _text_of(path: str) -> str:
    if "://" in path:
        from ldm_ray.storage.store import split_url  # here, since its import takes a second

        store, name = split_url(path)
        return store.read_bytes(name).decode()
    if "/" not in path and not path.endswith((".yaml", ".yml")):
        if path not in shipped_configs():
            names = ", ".join(shipped_configs())
            raise SettingsError(f"--config must be one of {names}, or a path or URL such as ./{path}; got {path!r}")
        path = str(SHIPPED / f"{path}.yaml")
    if not Path(path).is_file():
        raise SettingsError(f"--config must be a YAML file; {path!r} does not exist")
    return Path(path).read_text(encoding="utf-8")


def _parse_value(text: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise SettingsError(f"--set {text!r}: the value is not YAML") from None


def nested(keys: list[str], value: Any) -> dict[str, Any]:
    """Return a value under a path of keys."""
    for key in reversed(keys):
        value = {key: value}
    return typing.cast("dict[str, Any]", value)


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings, overridden by others."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        out[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return out


PRESETS: dict[str, dict[str, Any]] = {
    "default": RIVALS,
    "paper": merged(RIVALS | LITERAL, REPAIRS),
    "paper-literal": RIVALS | LITERAL,
}
