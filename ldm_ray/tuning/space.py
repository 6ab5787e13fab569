"""What a search may vary: from settings to Optuna's distributions, and to the settings of a trial."""

import json
from collections.abc import Mapping

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ldm_ray.config import Config, config_from_dict, merged, nested, setting_keys
from ldm_ray.errors import SettingsError
from ldm_ray.settings import Choice, Range
from ldm_ray.tuning.trials import SearchObjective, Value

SEARCHABLE = ("target", "vae", "schedule", "denoiser", "train_vae", "train_ldm", "predict.steps", "predict.guidance")
OF_THE_AUTOENCODER = ("target", "vae.", "train_vae.")
OBJECTIVES = {
    "nll": SearchObjective("vlb", "minimize", "bound on -log p(z_0), nats a latent dimension"),
    "mse": SearchObjective("mse", "minimize", "squared error of the mean, log2 squared"),
    "delta_pcc": SearchObjective("delta_pcc", "maximize", "delta correlation"),
    "energy_distance": SearchObjective("energy_distance", "minimize", "energy distance of draws"),
    "sampling_cost": SearchObjective("sampling_cost", "minimize", "million multiply-adds a draw"),
}
KNOWN_AT_THE_END = ("energy_distance", "sampling_cost")


def distributions(config: Config) -> dict[str, BaseDistribution]:
    """Return Optuna's distribution of each setting that `tune.space` names.

    Raises:
        SettingsError: If the space is empty, a key does not exist or cannot be searched, or a setting refuses a value.
    """
    space = config.tune.space
    if not space:
        raise SettingsError("tune.space must name at least one setting to search; got none")
    known = setting_keys()
    for key, entry in space.items():
        if key not in known:
            raise SettingsError(f"tune.space must name settings that exist; got {key!r}")
        if not key.startswith(SEARCHABLE):
            raise SettingsError(f"tune.space may only name settings of {', '.join(SEARCHABLE)}; got {key!r}")
        if key == "train_ldm.epochs":
            raise SettingsError("tune.space may not vary train_ldm.epochs: early stops compare trials by epoch")
        for value in entry.choices if isinstance(entry, Choice) else _probes(entry):
            _check_value(config, key, value)
    return {key: _distribution(key, entry) for key, entry in space.items()}


def objectives(config: Config) -> tuple[SearchObjective, ...]:
    """Return the objectives of a search.

    Raises:
        SettingsError: If the first is known only at the end of a trial, or one cannot be compared between trials.
    """
    names = config.tune.objectives
    if names[0] in KNOWN_AT_THE_END:
        raise SettingsError(f"tune.objectives must begin with one that is measured every epoch; got {names[0]}")
    if "nll" in names and searches_autoencoder(config):
        raise SettingsError("tune.objectives nll can only compare trials with the same latents; tune.space varies them")
    return tuple(OBJECTIVES[name] for name in names)


def searches_autoencoder(config: Config) -> bool:
    """Tell whether trials train their own autoencoders."""
    return any(key.startswith(OF_THE_AUTOENCODER) for key in config.tune.space)


def trial_config(config: Config, params: Mapping[str, Value]) -> Config:
    """Return the settings of a trial: the search's, changed by the trial's parameters; see `encoded` for lists.

    Raises:
        SettingsError: If its parameters do not fit together.
    """
    values = config.model_dump(
        mode="json", exclude={"tune"}
    )  # so that a trial does not change if more trials are asked for
    for key, value in params.items():
        values = merged(values, nested(key.split("."), _plain(value)))
    trial = config_from_dict(values)
    return trial.model_copy(update={"storage_options": config.storage_options})


def encoded(value: object) -> Value:
    """Return a choice in a form that Optuna can store: lists and None as JSON text."""
    return value if isinstance(value, (float, int, str, bool)) else json.dumps(value)


def _plain(value: Value) -> object:
    """Undo `encoded`."""
    return json.loads(value) if isinstance(value, str) and value.startswith(("[", "null")) else value


def _probes(entry: Range) -> tuple[float, ...]:
    """Return both ends of a range, and a number with a fraction if the range is not of integers."""
    whole = isinstance(entry.low, int) and isinstance(entry.high, int)
    inside = () if whole else (entry.low + 0.381966 * (entry.high - entry.low),)
    return (entry.low, entry.high, *inside)


def _check_value(config: Config, key: str, value: object) -> None:
    """Refuse a value that the setting itself refuses; combinations are checked by each trial."""
    try:
        trial_config(config, {key: encoded(value)})
    except SettingsError as error:
        if str(error).startswith(f"settings key {key!r}"):
            raise SettingsError(f"tune.space: {error}") from None


def _distribution(key: str, entry: Choice | Range) -> BaseDistribution:
    if isinstance(entry, Choice):
        return CategoricalDistribution([encoded(value) for value in entry.choices])
    if entry.low >= entry.high or (entry.log and entry.low <= 0):
        raise SettingsError(f"tune.space: {key} must have low < high, above 0 if log; got {entry.low} to {entry.high}")
    if isinstance(entry.low, int) and isinstance(entry.high, int):
        return IntDistribution(entry.low, entry.high, log=entry.log)
    return FloatDistribution(float(entry.low), float(entry.high), log=entry.log)
