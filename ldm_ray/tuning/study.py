"""A search as an Optuna study, for Optuna's analyses."""

from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from ldm_ray.tuning.trials import Search, Trial


def study_of(search: Search) -> optuna.Study:
    """Rebuild a search as a study in memory, without running trials.

    Returns:
        A study whose trials are complete, pruned (stopped early) or failed. Optuna renumbers trials, so the search's
        own number is the user attribute `number`. Curves are intermediate values if there is one objective; Optuna
        allows none with several.

    Note:
        A complete trial that lacks an objective counts as failed, since Optuna needs all values of a complete trial.
    """
    with _no_log_lines():
        study = optuna.create_study(study_name=search.name, directions=[o.direction for o in search.objectives])
        study.add_trials([_frozen(search, trial) for trial in search.trials if trial.state != "running"])
    return study


def _frozen(search: Search, trial: Trial) -> FrozenTrial:
    state = {"stopped": TrialState.PRUNED, "complete": TrialState.COMPLETE}.get(trial.state, TrialState.FAIL)
    values = [trial.metrics[o.name] for o in search.objectives if o.name in trial.metrics]
    if state is TrialState.COMPLETE and len(values) < len(search.objectives):
        state = TrialState.FAIL
    return create_trial(
        state=state,
        values=values if state is TrialState.COMPLETE else None,
        params=dict(trial.params),
        distributions={key: search.space[key] for key in trial.params},
        intermediate_values=dict(trial.curve) if len(search.objectives) == 1 else {},
        user_attrs={"number": trial.number},
    )


@contextmanager
def _no_log_lines() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
