"""An evaluation's tables in the terminal."""

from ldm_ray.console import say, show_table
from ldm_ray.evaluation.report.health import failed_lines
from ldm_ray.evaluation.report.tables import caption, describe_wells, score_tables
from ldm_ray.evaluation.scores.record import Metrics


def show_scores(metrics: Metrics) -> None:
    """Print the tables of an evaluation."""
    what = "simulated data, not biology" if metrics["simulated"] else metrics["dataset"]
    say(f"\n{describe_wells(metrics)} ({what})")
    for table in score_tables(metrics):
        show_table(table.title, table.head, table.body)
    for line in [*failed_lines(metrics["models"]), *caption(metrics)]:
        say(line)
