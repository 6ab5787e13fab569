"""Every metric that Ray exports to Prometheus for us: name, meaning and tags.

Ray exports a name as `ray_ldm_ray_<name>`, and appends `_total` to a counter's; `deploy/grafana/ldm_ray.json` plots
them. A metric belongs to the process that makes it, so each is made where its value is known.
"""

from collections.abc import Mapping

from ray.util import metrics

PREFIX = "ldm_ray_"
OF_A_RUN, OF_A_MODEL = ("run", "kind"), ("model",)

GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "train_wells_per_second": ("wells that all workers train on, without validation", OF_A_RUN),
    "train_data_wait_ratio": ("share of time that a worker waits for its wells", (*OF_A_RUN, "rank")),
    "train_loss": ("training loss of the first worker's latest batch", OF_A_RUN),
    "train_valid_loss": ("validation loss of the last epoch", OF_A_RUN),
    "train_checkpoint_seconds": ("seconds to write and upload the last checkpoint", OF_A_RUN),
    "train_global_batch_wells": ("wells in a batch, all workers together", OF_A_RUN),
    "bulk_conditions_per_second": ("conditions that an actor read and predicted, in its last part", ("run",)),
    "rows_busy": ("rows of a network pass in use", OF_A_MODEL),
    "passes_waiting": ("single-row passes still to be made", OF_A_MODEL),
    "rows_per_pass": ("mean rows per pass since the model was loaded", OF_A_MODEL),
    "compound_cache_hits": ("compounds whose encoding was cached", OF_A_MODEL),
    "compound_cache_misses": ("compounds that were encoded", OF_A_MODEL),
}
COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "bulk_conditions_predicted": ("conditions that bulk prediction has answered", ("run",)),
    "bulk_conditions_refused": ("conditions that bulk prediction could not answer", ("run",)),
    "profiles_finished": ("conditions that the endpoint has answered", OF_A_MODEL),
}
HISTOGRAMS: Mapping[str, tuple[str, tuple[str, ...], tuple[float, ...]]] = {
    "request_seconds": (
        "seconds until a request is answered",
        ("route", "status"),
        (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    ),
}


def run_tag(url: str) -> str:
    """Name a run by the last two parts of its folder, since many folders end in `ldm`."""
    return "/".join(url.rstrip("/").split("/")[-2:])


def gauge(name: str, tags: Mapping[str, str] | None = None) -> metrics.Gauge:
    """Make one of `GAUGES`; `tags` are its constant tags."""
    what, keys = GAUGES[name]
    made = metrics.Gauge(PREFIX + name, what, tag_keys=keys)
    made.set_default_tags(dict(tags or {}))
    return made


def counter(name: str, tags: Mapping[str, str] | None = None) -> metrics.Counter:
    """Make one of `COUNTERS`; `tags` are its constant tags."""
    what, keys = COUNTERS[name]
    made = metrics.Counter(PREFIX + name, what, tag_keys=keys)
    made.set_default_tags(dict(tags or {}))
    return made


def histogram(name: str) -> metrics.Histogram:
    """Make one of `HISTOGRAMS`."""
    what, keys, boundaries = HISTOGRAMS[name]
    return metrics.Histogram(PREFIX + name, what, boundaries=list(boundaries), tag_keys=keys)
