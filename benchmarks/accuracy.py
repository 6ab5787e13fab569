"""Accuracy of the shipped settings: trains and scores on the simulated release, or records an existing evaluation.

    python benchmarks/accuracy.py [--size small|full] [--json OUT]
    python benchmarks/accuracy.py --metrics REPORT/metrics.json|IC50/ic50.json --json OUT

`small` uses the shipped settings `demo`, `full` uses `longer`. `explained_share` is relative to the oracle: 0 for the
true mean change of cell line and time, 1 for the planted truth.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import machine

CONFIGS = {"small": "demo", "full": "longer"}
KEYS = (
    "rmse", "pcc", "r2", "delta_pcc", "systematic_pcc", "explained_share", "mse_gain_over_best_trivial",
    "mse_gain_over_best_baseline", "top50_pcc", "precision_at_50", "discrimination", "coverage_50", "coverage_80",
    "coverage_95", "crps",
)  # fmt: skip
PLAIN = (
    "model", "prediction", "rmse_infinite_samples", "rmse_normalised", "delta_pcc_normalised", "energy_distance", "mmd",
    "correlation_error", "top30_overlap",
)  # fmt: skip


def main() -> None:
    """Run or record an evaluation, print it, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=CONFIGS, default="small")
    parser.add_argument("--metrics", type=Path, help="record this evaluation instead of running one")
    parser.add_argument("--wall-s", type=float, help="with --metrics: how long the run took")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    wall_s = arguments.wall_s
    if arguments.metrics:
        metrics = json.loads(arguments.metrics.read_text())
        saved = arguments.metrics.parent / "settings.yaml"
        settings = saved.read_text() if saved.is_file() else ""
    else:
        metrics, settings, wall_s = run(CONFIGS[arguments.size])
    result = record(metrics, settings, wall_s)
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if arguments.json:
        arguments.json.write_text(text)


def run(config: str) -> tuple[dict[str, Any], str, float]:
    """Run the demo with the given settings in a temporary folder."""
    from ldm_ray.config import load_config
    from ldm_ray.workflows.demo import run_demo

    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        metrics = run_demo(Path(folder) / "run", load_config(config))
        settings = (Path(folder) / "run" / "settings.yaml").read_text()
        return metrics, settings, time.monotonic() - started


def record(metrics: dict[str, Any], settings: str, wall_s: float | None) -> dict[str, Any]:
    """Keep the figures to quote, or a whole IC50 evaluation, with the machine and the commit."""
    if "splits" in metrics:
        counts = metrics["counts"]
        what = f"LN_IC50: {counts['rows_used']} rows, {counts['cell_lines']} cell lines, {counts['drugs']} drugs"
        return {"what": what, **where(wall_s), **metrics, "settings": settings}
    rows = [
        {key: row[key] for key in (*PLAIN, *KEYS, *(f"{key}_interval" for key in KEYS)) if row.get(key) is not None}
        for row in metrics["rows"]
    ]
    return {
        "what": f"{metrics['n_profiles']} wells of {metrics['n_compounds']} compounds, unseen {metrics['unseen']}",
        "simulated": metrics["simulated"],
        "seed": metrics["seed"],
        "best_trivial": metrics["best_trivial"],
        "best_baseline": metrics["best_baseline"],
        "unseen": metrics["unseen"],
        "models": metrics["models"],
        **where(wall_s),
        "rows": rows,
        "ceiling": metrics["ceiling"],
        "settings": settings,
    }


def where(wall_s: float | None) -> dict[str, Any]:
    """Describe the machine and the commit."""
    return {"wall_s": None if wall_s is None else round(wall_s)} | machine()


if __name__ == "__main__":
    main()
