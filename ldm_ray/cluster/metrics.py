"""Every figure that goes to Prometheus through Ray's metrics: its name, meaning and tags.

Ray exports a name as `ray_ldm_ray_<name>`, and a counter with `_total` at its end; `deploy/grafana/ldm_ray.json` shows
them. A metric belongs to the process that makes it, so each is made where its figure is known.
"""

from collections.abc import Mapping

from ray.util import metrics

PREFIX = "ldm_ray_"
OF_A_RUN, OF_A_MODEL = ("run", "kind"), ("model",)

GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "train_wells_per_second": ("wells that all workers train on, validation left out", OF_A_RUN),
    "train_data_wait_ratio": ("share of the time in which a worker waits for its wells", (*OF_A_RUN, "rank")),
    "train_loss": ("training loss of the latest batch, of the first worker", OF_A_RUN),
    "train_valid_loss": ("validation loss of the last epoch", OF_A_RUN),
    "train_checkpoint_seconds": ("seconds until the last checkpoint was written and uploaded", OF_A_RUN),
    "train_global_batch_wells": ("wells of a batch, all workers together", OF_A_RUN),
    "bulk_conditions_per_second": ("conditions of its last part that an actor read and predicted", ("run",)),
    "rows_busy": ("rows of a network pass that are under way", OF_A_MODEL),
    "passes_waiting": ("single-row passes that are still to be made", OF_A_MODEL),
    "rows_per_pass": ("mean rows of a pass since the model was loaded", OF_A_MODEL),
    "compound_cache_hits": ("compounds whose encoding was known", OF_A_MODEL),
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
    """Return what a run is called among others: the last two parts of its folder, as many end in `ldm`."""
    return "/".join(url.rstrip("/").split("/")[-2:])


def gauge(name: str, tags: Mapping[str, str] | None = None) -> metrics.Gauge:
    """Make one of `GAUGES`; `tags` are those that stay the same."""
    what, keys = GAUGES[name]
    made = metrics.Gauge(PREFIX + name, what, tag_keys=keys)
    made.set_default_tags(dict(tags or {}))
    return made


def counter(name: str, tags: Mapping[str, str] | None = None) -> metrics.Counter:
    """Make one of `COUNTERS`; `tags` are those that stay the same."""
    what, keys = COUNTERS[name]
    made = metrics.Counter(PREFIX + name, what, tag_keys=keys)
    made.set_default_tags(dict(tags or {}))
    return made


def histogram(name: str) -> metrics.Histogram:
    """Make one of `HISTOGRAMS`."""
    what, keys, boundaries = HISTOGRAMS[name]
    return metrics.Histogram(PREFIX + name, what, boundaries=list(boundaries), tag_keys=keys)
