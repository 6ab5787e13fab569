"""Records a finished campaign of `ldm-ray reproduce`: its tables, its checks and its answer in words.

    python benchmarks/reproduce.py --folder OUT [--json FILE]

`ratio` is the RMSE of the paper's model, mean of draws, over that of copying the matched control, averaged over seeds.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import machine, write
from ldm_ray.evaluation.report.agreement import claims

SCORES = ("rmse", "pcc", "r2", "delta_pcc", "systematic_pcc", "mse_gain_over_best_trivial")
PLAIN = ("model", "prediction", "energy_distance", "correlation_error", "correlation_spearman", "top30_overlap")


def main() -> None:
    """Read the campaign's files, print what they say, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("table1/compound/seed*/metrics.json"))]
    result: dict[str, Any] = {
        "what": f"ldm-ray reproduce, seeds {', '.join(str(run['seed']) for run in runs)}",
        **machine(),
        "simulated": runs[0]["simulated"],
        "n_profiles": runs[0]["n_profiles"],
        "n_compounds": runs[0]["n_compounds"],
        "ratio": fmean(_rmse(run, "paper", "mean_of_") / _rmse(run, "control", "mean") for run in runs),
        "seconds": json.loads((folder / "reproduce.json").read_text())["seconds"],
        "claims": claims(runs),
        "runs": [_run(run) for run in runs],
    }
    for name, path, keys in (
        ("folds", folder / "folds/folds.json", ("mean", "sd", "folds")),
        ("ic50", folder / "ic50/ic50.json", ("counts", "splits")),
        ("pertdit", folder / "pertdit/plan.json", None),
    ):
        if path.exists():
            found = json.loads(path.read_text())
            result[name] = {key: found[key] for key in keys} if keys else found
    if (scored := folder / "pertdit/metrics.json").exists():
        result["pertdit"]["rows"] = [_row(row) for row in json.loads(scored.read_text())["rows"]]
    write(result, arguments.json)


def _rmse(run: dict[str, Any], model: str, prediction: str) -> float:
    """Return the RMSE of a model's first row whose prediction starts so."""
    return next(
        float(row["rmse"])
        for row in run["rows"]
        if row["model"] == model and str(row["prediction"]).startswith(prediction)
    )


def _run(run: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of a seed."""
    return {
        "seed": run["seed"],
        "rows": [_row(row) for row in run["rows"]],
        "comparisons": [pair for pair in run["comparisons"] if pair["model"] == "paper"],
        "ceiling": run["ceiling"],
        "health": {model["name"]: _health(model["health"]) for model in run["models"] if "health" in model},
    }


def _row(row: dict[str, Any]) -> dict[str, Any]:
    names = [*PLAIN, *SCORES, *(f"{score}_interval" for score in SCORES)]
    return {name: row[name] for name in names if name in row}


def _health(health: dict[str, Any]) -> dict[str, Any]:
    """Return the checks, with the divergence of the autoencoder's dimensions as a sum."""
    autoencoder = dict(health["autoencoder"])
    return health | {"autoencoder": autoencoder | {"kl_nats": sum(autoencoder["kl_nats"])}}


if __name__ == "__main__":
    main()
