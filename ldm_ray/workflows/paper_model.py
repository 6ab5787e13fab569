"""The settings of the paper's model beside a campaign's own model."""

from ldm_ray.config import FREE_TO_CHANGE, Config, resolved

SHARED = {*FREE_TO_CHANGE, "seed", "encoder", "ingest"}
"""Groups of a campaign's settings that all its models share."""
SHARED_KEYS = {"predict": {"n_samples", "calibration_wells", "rows_per_batch"}, "train_ldm": {"global_batch_size"}}
"""Single settings that they share: the number of draws (the paper takes all their steps), and the batch, so that small
data still make several steps an epoch."""


def paper_config(own: Config) -> Config:
    """Return preset `paper`, with what a comparison must share taken from a campaign's settings.

    Texts in `reproduce.paper` come last.

    Raises:
        SettingsError: If a text in `reproduce.paper` does not fit.
    """
    shared = own.model_dump(mode="json", include={**SHARED_KEYS, **dict.fromkeys(SHARED, True)})
    layer = {"preset": "paper", **shared, "train_vae": shared["train_ldm"]}
    return resolved(layer, own.reproduce.paper).model_copy(update={"storage_options": own.storage_options})
