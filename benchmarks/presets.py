"""Compares settings of the model: each is trained with several seeds and scored once on the test wells.

    python benchmarks/presets.py --data DATA --out FOLDER [--search SEARCH] [--config FILE] [--unseen plate]
        [--model NAME ...] [--seed N ...] [--json OUT]

`best` is the best trial of a search, `paper` the preset, `default` the preset with the settings file's changes.
Existing results under --out are kept. The JSON holds mean and standard deviation over seeds of each figure; `ratio` is
the first model's RMSE over that of the best trivial row.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import machine
from ldm_ray.bundle.bundle import load_bundle
from ldm_ray.cluster.batch.embed import embed
from ldm_ray.cluster.connect import connect
from ldm_ray.cluster.placement import Placement, cpus_per_worker
from ldm_ray.cluster.train.run import Run, ensure_bundle
from ldm_ray.config import Config, dump_config, load_config
from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.resplit import resplit
from ldm_ray.evaluation.suite import evaluate
from ldm_ray.storage.store import Store
from ldm_ray.tuning.analysis import best_trial
from ldm_ray.tuning.space import trial_config
from ldm_ray.tuning.state import load_search, read_record
from ldm_ray.workflows.paper_model import paper_config

FIGURES = ("rmse", "mse_gain_over_best_trivial", "delta_pcc", "systematic_pcc", "explained_share", "energy_distance")
TRIVIAL = ("control", "train_mean", "mean_delta", "plate_mean")
REFERENCES = (*TRIVIAL, "ridge")
SAMPLES = (8,)


def main() -> None:
    """Train, score, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--search")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--unseen", choices=("compound", "plate"), default="compound")
    parser.add_argument("--model", action="append", choices=("best", "default", "paper"))
    parser.add_argument("--seed", action="append", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    models, seeds = arguments.model or ["best", "default", "paper"], arguments.seed or [101, 102, 103]
    dataset = open_dataset(arguments.data)
    if arguments.unseen == "plate":
        dataset = resplit(dataset, "plate", Store(str(arguments.out / "data")))
    configs = {name: config_of(name, arguments) for name in models}
    runs = {
        name: [run(dataset, config, seed, arguments.out / name / f"seed{seed}", arguments.threads) for seed in seeds]
        for name, config in configs.items()
    }
    result = {"what": f"test wells of unseen {arguments.unseen}s, seeds {seeds}", **machine(), "models": {}}
    for name, rows in runs.items():
        result["models"][name] = {"figures": summarise(rows), "runs": rows}
    result["references"] = {key: runs[models[0]][0]["references"][key] for key in REFERENCES}
    result["settings"] = {name: config.model_dump(mode="json") for name, config in configs.items()}
    first = runs[models[0]]
    trivial = [min(row["references"][key]["rmse"] for key in TRIVIAL) for row in first]
    result["ratio"] = float(np.mean([row["rmse"] for row in first]) / np.mean(trivial))
    print(json.dumps({"ratio": result["ratio"]} | {n: m["figures"] for n, m in result["models"].items()}, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def config_of(name: str, arguments: argparse.Namespace) -> Config:
    """Return a model's settings."""
    if name == "paper":
        return paper_config(load_config(arguments.config, arguments.set))
    if name == "default":
        return load_config(arguments.config, [*arguments.set])
    _, _, config = read_record(Store(arguments.search))
    return trial_config(config, best_trial(load_search(arguments.search)).params)


def run(dataset: PairedDataset, config: Config, seed: int, out: Path, threads: int) -> dict[str, Any]:
    """Train and score one model with one seed."""
    done = out / "scores.json"
    config = config.model_copy(update={"seed": seed})
    settings = dump_config(config)
    if done.exists():
        found = dict(json.loads(done.read_text()))
        if found.pop("settings") != settings:
            sys.exit(f"{out} holds a model with other settings")
        return found
    connect(config.ray)
    embed(dataset, config)
    placement = Placement(1, use_gpu=False, cpus=cpus_per_worker(1), gpus=0.0, threads=threads)
    began = time.monotonic()
    vae, ldm = str(out / "vae"), str(out / "ldm")
    run = Run(kind="vae", dataset=dataset, out=vae, config=config, placement=placement)
    ensure_bundle(replace(run, kind="ldm", out=ldm, vae=ensure_bundle(run)))
    wall_s = time.monotonic() - began
    judged = config.evaluate.model_copy(update={"n_samples": SAMPLES, "workers": 1})
    metrics = evaluate(dataset, [load_bundle(ldm)], judged, seed).metrics
    rows = {(row["model"], row["prediction"]): row for row in metrics["rows"]}
    direct = ("ldm", "mean_direct") in rows
    reported = rows["ldm", "mean_direct" if direct else f"mean_of_{SAMPLES[0]}"]
    shuffled = next(row for (model, _), row in rows.items() if model == "ldm-shuffled-compound")
    kept = {key: reported[key] for key in FIGURES if reported.get(key) is not None}
    kept |= {f"{key}_interval": reported[f"{key}_interval"] for key in FIGURES if reported.get(f"{key}_interval")}
    kept["energy_distance"] = rows["ldm", "one_draw"]["energy_distance"]
    result = {
        "seed": seed,
        "reported": reported["prediction"],
        "n_wells": metrics["n_profiles"],
        **kept,
        "systematic_pcc_shuffled": shuffled["systematic_pcc"],
        "rmse_of_control": rows["control", "mean"]["rmse"],
        "epochs": len(load_bundle(ldm).metadata["history"]),
        "wall_s": round(wall_s),
        "references": {key: {f: rows[key, "mean"].get(f) for f in FIGURES} for key in REFERENCES},
    }
    done.write_text(json.dumps(result | {"settings": settings}, indent=1))
    return result


def summarise(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation (n - 1) over seeds."""
    names = [*FIGURES, "systematic_pcc_shuffled", "wall_s"]
    found = {name: [row[name] for row in rows] for name in names if all(row.get(name) is not None for row in rows)}
    return {
        n: {"mean": float(np.mean(v)), "sd": float(np.std(v, ddof=1)) if len(v) > 1 else 0.0} for n, v in found.items()
    }


if __name__ == "__main__":
    main()
