"""The demo: all steps on simulated data, then a table, pictures and what to try next."""

import shutil
import sys
import time
from pathlib import Path

from ldm_ray.config import Config
from ldm_ray.console import say
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.evaluation.report.terminal import show_scores
from ldm_ray.evaluation.scores.record import Metrics, read_metrics
from ldm_ray.layout import LDM, PAGE, REPORT
from ldm_ray.prediction.predictor import Predictor
from ldm_ray.workflows.pipeline import Pipeline


def run_demo(out: Path, config: Config, *, overwrite: bool = False) -> Metrics:
    """Simulate, prepare, embed, train, evaluate and predict; finished steps are not repeated.

    Args:
        out: Local folder for all results.
        config: Settings of all steps.
        overwrite: Start over.

    Raises:
        DataError: If the folder holds a demo with other settings and `overwrite` is false.
    """
    started = time.monotonic()
    pipeline = Pipeline(str(out), config)
    pipeline.run(overwrite=overwrite)
    metrics = read_metrics(pipeline.store, REPORT)
    show_scores(metrics)
    say("\nreport and pictures:")
    for name in [PAGE, *(name for name in pipeline.store.names(REPORT) if name.endswith(".png"))]:
        say(f"  {out / REPORT / name}")
    _next_commands(out, pipeline.dataset, Predictor.from_bundle(pipeline.url(LDM)))
    say(f"\ndone in {time.monotonic() - started:.0f} s")
    return metrics


def _next_commands(out: Path, dataset: PairedDataset, predictor: Predictor) -> None:
    held_out = dataset.profiles(["compound_id"], "test")["compound_id"][0].as_py()
    smiles, cell = dataset.parent_smiles[held_out], predictor.cell_lines[0]
    # After `make demo` the command is in .venv but not on the path.
    command = "ldm-ray" if shutil.which("ldm-ray") else sys.argv[0]
    say("\ntry next:")
    say(f"  {command} predict --bundle {out / 'ldm'} --smiles '{smiles}' --cell {cell} --dose-um 10 --time-h 24")
    say(f"  {command} bench samplers --bundle {out / 'ldm'} --data {out / 'data'}")
    say(f"  {command} serve --bundle {out / 'ldm'}")
    say(f"  {command} data describe {out / 'data'}")
    paths = f"--data {out / 'data'} --bundle {out / 'ldm'} --out {out / 'valid'}"
    say(f"  {command} evaluate {paths} --set evaluate.split=valid")
    say(f"  {command} evaluate --table1 --data {out / 'data'} --out {out / 'table1'} --config {out / 'settings.yaml'}")
    release = out / "release"
    files = f"--gdsc {release / 'ic50.csv.gz'} --basal-profiles {release / 'basal_profiles.csv.gz'}"
    say(f"  {command} evaluate --ic50 --bundle {out / 'ldm'} {files} --out {out / 'ic50'}")
