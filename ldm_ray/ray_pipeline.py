"""Whole steps and the whole chain, as the command line and jobs run them."""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from ldm_ray.config import Config, dump_config, read_settings
from ldm_ray.console import counting, say, show_table, spinning, staged, training
from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.l1000 import read_l1000
from ldm_ray.data.prepare import prepare
from ldm_ray.data.simulate import SUMMARY, ReleaseFiles, release_files, simulate_release
from ldm_ray.errors import DataError
from ldm_ray.evaluation.report import write_report
from ldm_ray.evaluation.suite import evaluate
from ldm_ray.evaluation.tables import caption, describe_wells, score_tables
from ldm_ray.predictor import Predictor
from ldm_ray.ray_embed import embed
from ldm_ray.ray_evaluate import block_runner
from ldm_ray.ray_train import train_ldm, train_vae
from ldm_ray.training.bundle import bundle_exists, load_bundle


def run_demo(out: Path, config: Config, overwrite: bool = False) -> dict[str, Any]:
    """Simulate, prepare, embed, train, evaluate and predict; steps that are done already are not repeated.

    Args:
        out: Local folder for everything.
        config: Settings of all steps.
        overwrite: Start anew.

    Raises:
        DataError: If the folder holds a demo with other settings and `overwrite` is false.
    """
    started = time.monotonic()
    _check_settings(out, config, overwrite)
    files = _simulated(out / "release", config)
    dataset = _prepared(files, str(out / "data"), config)
    with counting("encoding compounds") as progress:
        embed(dataset, config, on_progress=progress)
    _train(dataset, out, config)
    predictor = Predictor.from_bundle(str(out / "ldm"))
    bundles = [predictor.bundle]
    with staged() as progress:
        evaluation = evaluate(dataset, bundles, config.evaluate, config.seed, progress, block_runner(config))
    with spinning("writing the report"):
        pictures = write_report(str(out / "report"), evaluation, bundles, dataset, config)
    show_scores(evaluation.metrics)
    say("\nreport and pictures:")
    for picture in pictures:
        say(f"  {picture}")
    _next_commands(out, dataset, predictor)
    say(f"\ndone in {time.monotonic() - started:.0f} s")
    return evaluation.metrics


def show_scores(metrics: dict[str, Any]) -> None:
    """Print the tables of an evaluation."""
    what = "simulated data, not biology" if metrics["simulated"] else metrics["dataset"]
    say(f"\n{describe_wells(metrics)} ({what})")
    for table in score_tables(metrics):
        show_table(table.title, table.head, table.body)
    for line in caption(metrics):
        say(line)


def _check_settings(out: Path, config: Config, overwrite: bool) -> None:
    """Keep the demo's settings beside it; another demo's folder is not mixed with this one."""
    saved = out / "settings.yaml"
    if saved.exists() and not overwrite and read_settings(saved.read_text(encoding="utf-8")) != config:
        raise DataError(f"{out} holds a demo with other settings; --overwrite replaces it, --out takes another folder")
    if overwrite:
        for name in ("release", "data", "vae", "ldm", "report"):
            _remove_tree(out / name)
    out.mkdir(parents=True, exist_ok=True)
    saved.write_text(dump_config(config), encoding="utf-8")


def _remove_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    if folder.exists():
        folder.rmdir()


def _simulated(folder: Path, config: Config) -> ReleaseFiles:
    if (folder / SUMMARY).exists():
        say(f"release: {folder} is there already")
        return release_files(folder)
    _remove_tree(folder)
    with counting("simulating plates") as progress:
        return simulate_release(config.simulate, folder, config.seed, on_progress=progress)


def _prepared(files: ReleaseFiles, root: str, config: Config) -> PairedDataset:
    if (Path(root) / "manifest.json").exists():
        say(f"dataset: {root} is there already")
        return open_dataset(root)
    release = read_l1000(files.gctx, files.inst_info, files.pert_info, files.gene_info)
    with counting("writing treated wells") as progress:
        manifest = prepare(release, root, config, on_progress=progress)
    for step in manifest["cleaning"]:
        say(f"  {step['removed']:>7,} wells removed, {step['wells_after']:>7,} left: {step['rule']}")
    return open_dataset(root)


def _train(dataset: PairedDataset, out: Path, config: Config) -> None:
    vae, ldm = str(out / "vae"), str(out / "ldm")
    if bundle_exists(vae):
        say(f"autoencoder: {vae} is there already")
    else:
        with training("autoencoder") as progress:
            train_vae(dataset, vae, config, resume=_unfinished(vae), on_progress=progress)
    if bundle_exists(ldm):
        say(f"model: {ldm} is there already")
        return
    with training("latent diffusion") as progress:
        train_ldm(dataset, load_bundle(vae, "vae"), ldm, config, resume=_unfinished(ldm), on_progress=progress)


def _unfinished(bundle: str) -> bool:
    return (Path(bundle) / "run").exists()


def _next_commands(out: Path, dataset: PairedDataset, predictor: Predictor) -> None:
    held_out = dataset.profiles(["compound_id"], "test")["compound_id"][0].as_py()
    smiles, cell = dataset.parent_smiles[held_out], predictor.cell_lines[0]
    # After `make demo` the command is in .venv and not on the path.
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
