"""The settings of the paper's model beside a campaign's own model."""

from ldm_ray.config import FREE_TO_CHANGE, Config, load_config


def paper_config(own: Config) -> Config:
    """Return preset `paper`, with what a comparison must share taken from a campaign's settings.

    Shared are the compound encoder, how wells are read and judged, the number of draws (not their steps: the paper
    takes all of them), and the batch, so that small data still make several steps an epoch. Texts in
    `reproduce.paper` come last.
    """
    paper = load_config(None, ["preset=paper", *own.reproduce.paper])
    given = {text.partition("=")[0].strip() for text in own.reproduce.paper}
    batch = {"global_batch_size": own.train_ldm.global_batch_size}
    sized = {
        name: getattr(paper, name).model_copy(update={} if f"{name}.global_batch_size" in given else batch)
        for name in ("train_vae", "train_ldm")
    }
    draws = {name: getattr(own.predict, name) for name in ("n_samples", "calibration_wells", "rows_per_batch")}
    shared = (*FREE_TO_CHANGE, "seed", "encoder", "ingest", "storage_options")
    return paper.model_copy(
        update={name: getattr(own, name) for name in shared}
        | sized
        | {"predict": paper.predict.model_copy(update=draws)}
    )
