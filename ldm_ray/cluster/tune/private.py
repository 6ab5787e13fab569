"""The private members of Ray and Optuna that a resumed search needs; no other file touches them.

They were read in Ray 2.60 and Optuna 5.0. `tests/unit/test_tuning_state.py` fails with other versions, as a reminder
to read them again.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search.optuna import OptunaSearch

READ_IN = {"ray": "2.60", "optuna": "5.0"}


class OpenOptunaSearch(OptunaSearch):
    """Ray's Optuna search, with access to its trials."""

    def resume_trial(self, trial_id: str, frozen: FrozenTrial) -> None:
        """Suggest a trial that another driver began as the next one, `trial_id`."""
        study: Any = self._ot_study  # with our sampler; Ray declares it None
        self._ot_trials[trial_id] = optuna.trial.Trial(study, frozen._trial_id)

    def optuna_trial(self, trial_id: str) -> optuna.Trial:
        """Return the Optuna trial of a Tune trial."""
        trial: optuna.Trial = self._ot_trials[trial_id]
        return trial

    def forget_trial(self, trial_id: str) -> None:
        """Forget a trial that has ended."""
        self._ot_trials.pop(trial_id)


def suggest_missing(trial: optuna.Trial, space: Mapping[str, BaseDistribution]) -> None:
    """Suggest the settings that a trial lacks because it was interrupted while being suggested."""
    for key, distribution in space.items():
        trial._suggest(key, distribution)


class OpenAsha(AsyncHyperBandScheduler):
    """Ray's asynchronous successive halving, with access to its only bracket."""

    def drop_rungs_from(self, epoch: int) -> None:
        """Stop no trial from this epoch on."""
        bracket = self._brackets[0]
        bracket._rungs = [(at, rung) for at, rung in bracket._rungs if at < epoch]

    def replay(self, name: str, curve: list[tuple[int, float]]) -> None:
        """Take into account the curve of a past trial; larger values are better."""
        past: Any = SimpleNamespace(trial_id=name)
        for epoch, value in curve:
            self._brackets[0].on_result(past, epoch, value)
