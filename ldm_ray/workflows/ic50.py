"""Table 2 from bundles and two tables of measurements."""

from collections.abc import Sequence
from dataclasses import dataclass

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.config import Config
from ldm_ray.console import spinning
from ldm_ray.evaluation.ic50.benchmark import evaluate_ic50
from ldm_ray.evaluation.ic50.profiles import profile_models
from ldm_ray.evaluation.ic50.record import Ic50Metrics
from ldm_ray.evaluation.ic50.report import write_ic50_report
from ldm_ray.evaluation.ic50.rows import load_ic50
from ldm_ray.storage.source import source_file


@dataclass(frozen=True)
class Ic50Tables:
    """Paths or URLs of GDSC's table and of the cell lines' untreated profiles."""

    gdsc: str
    basal_profiles: str


def run_ic50(
    bundles: Sequence[Bundle], tables: Ic50Tables, out: str, config: Config, names: Sequence[str] = ()
) -> tuple[Ic50Metrics, list[str]]:
    """Predict drug sensitivity from the bundles' profiles, and write the report.

    Args:
        bundles: The models.
        tables: The measurements.
        out: Folder URL of the report.
        config: All settings.
        names: Names of the bundles' rows; by default the bundles' kinds.

    Returns:
        The contents of `ic50.json`, and the URLs of the written files.
    """
    options, asked = config.storage_options, config.ic50
    with spinning("reading drug sensitivities"):
        files = (source_file(tables.gdsc, options), source_file(tables.basal_profiles, options))
        rows = load_ic50(*files, bundles[0].metadata["genes"], asked.dataset)
        encoder, models = profile_models(bundles, config.seed, names)
    with spinning("fitting") as progress:
        metrics = evaluate_ic50(rows, encoder, models, asked.seeds, asked.dose_um, asked.time_h, progress)
    return metrics, write_ic50_report(out, metrics, config)
