"""The command line, `ldm-ray`. Each command parses its options, calls one function and shows the result.

Mistakes are refused at once: settings are resolved and datasets opened before Ray, torch and pandas are imported,
which takes seconds.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ldm_ray import __version__
from ldm_ray.cli.bench import bench_app
from ldm_ray.cli.data import data_app
from ldm_ray.cli.evaluate import EPILOG, evaluate
from ldm_ray.cli.options import (
    AllowMissingGenes,
    ConfigFile,
    Data,
    DoseUnit,
    Gctx,
    GeneInfo,
    H5ad,
    InstInfo,
    Json,
    Layer,
    Overrides,
    Overwrite,
    PertInfo,
    Resume,
    Seed,
    TimeUnit,
    settings,
)
from ldm_ray.cli.pipeline import EPILOG as PIPELINE_EPILOG
from ldm_ray.cli.pipeline import pipeline
from ldm_ray.cli.predict import EPILOG as PREDICT_EPILOG
from ldm_ray.cli.predict import predict
from ldm_ray.cli.reproduce import EPILOG as REPRODUCE_EPILOG
from ldm_ray.cli.reproduce import reproduce
from ldm_ray.cli.runs import EPILOG as RUNS_EPILOG
from ldm_ray.cli.runs import runs
from ldm_ray.cli.serve import EPILOG as SERVE_EPILOG
from ldm_ray.cli.serve import serve
from ldm_ray.cli.status import EPILOG as STATUS_EPILOG
from ldm_ray.cli.status import status
from ldm_ray.cli.train import train_app
from ldm_ray.cli.tune import tune_app
from ldm_ray.console import counting, print_json, say, say_error, spinning
from ldm_ray.errors import LdmRayError
from ldm_ray.loopback import keep_from_proxies

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Train and query a latent diffusion model of drug-induced gene expression, on Ray.",
)
app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")
app.add_typer(tune_app, name="tune")
app.add_typer(bench_app, name="bench")


@app.command(epilog="Example: `ldm-ray simulate --out runs/release --profiles 12000`")
def simulate(
    *,
    out: Annotated[Path, typer.Option(help="Local folder for the release.")],
    profiles: Annotated[int | None, typer.Option(help="Treated wells left after cleaning.")] = None,
    gene_info: Annotated[
        Path | None, typer.Option(help="Take the genes from this table instead of making them up.")
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Write a simulated release, laid out like GSE92742, with a planted truth."""
    more = [] if profiles is None else [f"simulate.n_profiles={profiles}"]
    resolved = settings(config, overrides, seed, *more)
    from ldm_ray.data.simulate import simulate_release

    with counting("simulating plates") as progress:
        files = simulate_release(resolved.simulate, out, resolved.seed, gene_info, progress)
    paths = {name: str(getattr(files, name)) for name in ("gctx", "inst_info", "pert_info", "gene_info", "truth")}
    if json:
        print_json(paths)
    say(f"release of {resolved.simulate.n_profiles:,} treated wells in {out}")


@app.command(
    epilog="Examples:\n\n\n\n- `ldm-ray prepare --gctx L3.gctx --inst-info inst.txt --pert-info pert.txt"
    " --gene-info gene.txt --out runs/data`\n\n- `ldm-ray prepare --h5ad Lincs_L1000.h5ad --out runs/data`"
)
def prepare(
    *,
    out: Annotated[str, typer.Option(help="Folder for the dataset, path or URL.")],
    gctx: Gctx = None,
    inst_info: InstInfo = None,
    pert_info: PertInfo = None,
    gene_info: GeneInfo = None,
    h5ad: H5ad = None,
    layer: Layer = "",
    dose_unit: DoseUnit = "",
    time_unit: TimeUnit = "",
    allow_missing_genes: AllowMissingGenes = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Turn a release into a paired dataset: clean, pair treated wells with controls, split."""
    resolved = settings(config, overrides, None, *([] if seed is None else [f"splits.seed={seed}"]))
    from ldm_ray.data.releases.paths import ReleasePaths
    from ldm_ray.data.releases.release import ReleaseOptions

    options = ReleaseOptions(allow_missing_genes, dose_unit, time_unit, layer)
    wells, compounds = tuple(inst_info or ()), tuple(pert_info or ())
    paths = ReleasePaths(tuple(gctx or ()), wells, compounds, gene_info, h5ad, options)
    with spinning("reading tables"):
        release = paths.open(resolved.storage_options)
    from ldm_ray.cluster.batch.prepare import part_runner
    from ldm_ray.data.dataset import open_dataset
    from ldm_ray.data.describe import describe_json
    from ldm_ray.data.prepare import prepare as write_dataset

    with counting("writing treated wells") as progress:
        manifest = write_dataset(
            release, out, resolved, overwrite=overwrite, on_progress=progress, resume=resume, run=part_runner(resolved)
        )
    dataset = open_dataset(out, resolved.storage_options)
    if json:
        print_json(describe_json(dataset))
    for step in manifest["cleaning"]:
        say(f"{step['removed']:>9,} wells removed, {step['wells_after']:>9,} left: {step['rule']}")
        if step["removed"] and step.get("examples"):
            say(" " * 10 + "removed: " + ", ".join(step["examples"]))
    for note in manifest["notes"]:
        say(f"note: {note}")
    say(f"{manifest['n_profiles']:,} treated wells in {out}; next: ldm-ray data describe {out}")


@app.command(epilog="Example: `ldm-ray embed --data runs/data`")
def embed(
    *,
    data: Data,
    overwrite: Overwrite = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Encode a dataset's compounds; only missing embeddings are computed."""
    resolved = settings(config, overrides, seed)
    from ldm_ray.data.dataset import open_dataset

    dataset = open_dataset(data, resolved.storage_options)
    from ldm_ray.cluster.batch.embed import embed as embed_dataset

    with counting("encoding compounds") as progress:
        url = embed_dataset(dataset, resolved, overwrite=overwrite, on_progress=progress)
    if json:
        print_json({"embeddings": url})
    say(f"embeddings in {url}")


app.command("evaluate", epilog=EPILOG)(evaluate)
app.command("pipeline", epilog=PIPELINE_EPILOG)(pipeline)
app.command("reproduce", epilog=REPRODUCE_EPILOG)(reproduce)
app.command("runs", epilog=RUNS_EPILOG)(runs)
app.command("serve", epilog=SERVE_EPILOG)(serve)
app.command("status", epilog=STATUS_EPILOG)(status)
app.command("predict", epilog=PREDICT_EPILOG)(predict)


@app.command(epilog="Example: `ldm-ray demo --out demo --config demo`")
def demo(
    *,
    out: Annotated[Path, typer.Option(help="Local folder for all results.")] = Path("demo"),
    overwrite: Overwrite = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Run every step on simulated data: simulate, prepare, embed, train, evaluate, predict."""
    resolved = settings(config, overrides, seed)
    from ldm_ray.workflows.demo import run_demo

    metrics = run_demo(out, resolved, overwrite=overwrite)
    if json:
        print_json(metrics)


@app.callback(invoke_without_command=True)
def version(*, show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Print the version if asked to."""
    if show:
        sys.stdout.write(f"ldm-ray {__version__}\n")
        raise typer.Exit()


def main() -> None:
    """Run the command line; a user's mistake is reported in one line, with exit code 2."""
    # Ray prints its warnings on standard output, where `--json` promises one object and nothing else. Many small
    # processes on two cores, or a Serve controller that was asked to end, deserve no warning either.
    skipped = "." if "--json" in sys.argv else "worker processes have been started on node|graceful_shutdown failed"
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", skipped)
    keep_from_proxies()
    try:
        app()
    except LdmRayError as error:
        say_error(" ".join(str(error).split()))
        sys.exit(2)
    except OSError as error:
        say_error(" ".join(str(error).split()))
        sys.exit(2)
    except KeyboardInterrupt:
        say_error("interrupted")
        sys.exit(130)
