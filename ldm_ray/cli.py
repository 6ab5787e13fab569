"""The command line, `ldm-ray`. Each command parses, calls one function and shows what came out."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ldm_ray import __version__
from ldm_ray.cli_bench import bench_app
from ldm_ray.cli_data import data_app
from ldm_ray.cli_evaluate import EPILOG, evaluate
from ldm_ray.cli_options import ConfigFile, Data, Json, Overrides, Overwrite, Resume, Seed, settings
from ldm_ray.cli_runs import EPILOG as RUNS_EPILOG
from ldm_ray.cli_runs import runs
from ldm_ray.cli_serve import EPILOG as SERVE_EPILOG
from ldm_ray.cli_serve import serve
from ldm_ray.cli_train import train_app
from ldm_ray.cli_tune import tune_app
from ldm_ray.console import counting, print_json, say, say_error, show_table, spinning
from ldm_ray.errors import LdmRayError, QueryError

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
    out: Annotated[Path, typer.Option(help="Local folder of the release.")],
    profiles: Annotated[int | None, typer.Option(help="Treated wells that survive cleaning.")] = None,
    gene_info: Annotated[Path | None, typer.Option(help="Use this table's genes, not made-up ones.")] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Write a simulated release in the layout of GSE92742, with planted truth."""
    from ldm_ray.data.simulate import simulate_release

    more = [] if profiles is None else [f"simulate.n_profiles={profiles}"]
    resolved = settings(config, overrides, seed, *more)
    with counting("simulating plates") as progress:
        files = simulate_release(resolved.simulate, out, resolved.seed, gene_info, progress)
    paths = {name: str(getattr(files, name)) for name in ("gctx", "inst_info", "pert_info", "gene_info", "truth")}
    if json:
        print_json(paths)
    say(f"release of {resolved.simulate.n_profiles:,} treated wells in {out}")


@app.command(
    epilog="Example: `ldm-ray prepare --gctx L3.gctx --inst-info inst.txt --pert-info pert.txt"
    " --gene-info gene.txt --out runs/data`, or `ldm-ray prepare --h5ad Lincs_L1000.h5ad --out runs/data`"
)
def prepare(
    out: Annotated[str, typer.Option(help="Folder URL of the dataset.")],
    gctx: Annotated[str | None, typer.Option(help="Level 3 matrix, path or URL.")] = None,
    inst_info: Annotated[str | None, typer.Option(help="Table of wells.")] = None,
    pert_info: Annotated[str | None, typer.Option(help="Table of perturbagens, with SMILES.")] = None,
    gene_info: Annotated[str | None, typer.Option(help="Table of genes, 978 of them landmarks.")] = None,
    h5ad: Annotated[str | None, typer.Option(help="PRnet-style h5ad, instead of the four files.")] = None,
    allow_missing_genes: Annotated[bool, typer.Option(help="Go on with the landmarks that are there.")] = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Clean, pair and split a release into a paired dataset; reads and writes any URL."""
    from ldm_ray.data.dataset import open_dataset
    from ldm_ray.data.describe import describe_json
    from ldm_ray.data.h5ad import read_h5ad
    from ldm_ray.data.l1000 import read_l1000
    from ldm_ray.data.prepare import prepare as write_dataset
    from ldm_ray.data.source import source_file
    from ldm_ray.ray_prepare import part_runner

    resolved = settings(config, overrides, None, *([] if seed is None else [f"splits.seed={seed}"]))
    options = resolved.storage_options
    with spinning("reading tables"):
        genes = source_file(gene_info, options) if gene_info else None
        if h5ad is not None and gctx is None:
            release = read_h5ad(source_file(h5ad, options), genes, allow_missing_genes)
        elif h5ad is None and gctx and inst_info and pert_info and genes:
            matrix, wells, compounds = (source_file(file, options) for file in (gctx, inst_info, pert_info))
            release = read_l1000(matrix, wells, compounds, genes, allow_missing_genes)
        else:
            raise LdmRayError("give --h5ad, or all of --gctx, --inst-info, --pert-info and --gene-info")
    with counting("writing treated wells") as progress:
        manifest = write_dataset(release, out, resolved, overwrite, progress, resume, part_runner(resolved))
    dataset = open_dataset(out, options)
    if json:
        print_json(describe_json(dataset))
    for step in manifest["cleaning"]:
        say(f"{step['removed']:>9,} wells removed, {step['wells_after']:>9,} left: {step['rule']}")
    say(f"{manifest['n_profiles']:,} treated wells in {out}; look with: ldm-ray data describe {out}")


@app.command(epilog="Example: `ldm-ray embed --data runs/data`")
def embed(
    data: Data,
    overwrite: Overwrite = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Encode a dataset's compounds and keep the embedding table with it; only those it lacks are computed."""
    from ldm_ray.data.dataset import open_dataset
    from ldm_ray.ray_embed import embed as embed_dataset

    resolved = settings(config, overrides, seed)
    with counting("encoding compounds") as progress:
        url = embed_dataset(open_dataset(data, resolved.storage_options), resolved, overwrite, progress)
    if json:
        print_json({"embeddings": url})
    say(f"embeddings in {url}")


@app.command(
    epilog="Examples: `ldm-ray predict --bundle runs/ldm --smiles 'CC(=O)Oc1ccccc1C(=O)O' --cell A375 --dose-um 10"
    " --time-h 24`; `ldm-ray predict --bundle runs/ldm --conditions queries.csv --out predictions.h5ad`"
)
def predict(
    bundle: Annotated[str, typer.Option(help="Bundle of a trained model.")],
    smiles: Annotated[str | None, typer.Option(help="The compound.")] = None,
    cell: Annotated[str | None, typer.Option(help="A cell line of the bundle.")] = None,
    dose_um: Annotated[float | None, typer.Option(help="Micromolar.")] = None,
    time_h: Annotated[float | None, typer.Option(help="Hours.")] = None,
    conditions: Annotated[str | None, typer.Option(help="Table of queries: smiles, cell, dose_um, time_h.")] = None,
    out: Annotated[str | None, typer.Option(help="Where a table's predictions go: .parquet or .h5ad.")] = None,
    n_samples: Annotated[int | None, typer.Option(help="Latent samples a query.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps.")] = None,
    top: Annotated[int, typer.Option(help="Genes shown up and down.", min=1)] = 10,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Predict one condition, or a table of them."""
    from ldm_ray.bulk import check_out, read_queries, write_predictions
    from ldm_ray.predictor import Predictor, Query

    asked = settings(config, overrides, seed)
    single = (smiles, cell, dose_um, time_h)
    if conditions is not None:
        if out is None or any(value is not None for value in single):
            raise QueryError("--conditions wants --out, and no --smiles, --cell, --dose-um or --time-h")
        check_out(out)
        queries = read_queries(conditions, asked.storage_options)
    elif smiles is not None and cell is not None and dose_um is not None and time_h is not None:
        queries = [Query(smiles, dose_um, time_h, cell)]
    else:
        raise QueryError("give --smiles, --cell, --dose-um and --time-h, or --conditions and --out")
    if config or overrides:
        n_samples, steps = n_samples or asked.predict.n_samples, steps or asked.predict.steps
    predictor = Predictor.from_bundle(bundle, storage_options=asked.storage_options)
    with spinning(f"sampling {len(queries):,} conditions"):
        predictions = predictor.predict(queries, n_samples, steps, asked.seed)
    if conditions is not None and out is not None:
        used = {"bundle": bundle, "seed": asked.seed} | predictor.used(n_samples, steps)
        write_predictions(out, queries, predictions, used, asked.storage_options)
        say(f"{len(queries):,} predictions in {out}")
        if json:
            print_json({"predictions": out, "n": len(queries)})
        return
    _show_prediction(queries[0], predictions, top, json)


app.command("evaluate", epilog=EPILOG)(evaluate)
app.command("runs", epilog=RUNS_EPILOG)(runs)
app.command("serve", epilog=SERVE_EPILOG)(serve)


@app.command(epilog="Example: `ldm-ray demo --out demo --config jobs/configs/demo.yaml`")
def demo(
    out: Annotated[Path, typer.Option(help="Local folder for everything.")] = Path("demo"),
    overwrite: Overwrite = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Run the whole chain on a simulated release: simulate, prepare, embed, train, evaluate, predict."""
    from ldm_ray.ray_pipeline import run_demo

    metrics = run_demo(out, settings(config, overrides, seed), overwrite)
    if json:
        print_json(metrics)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Show the version if asked."""
    if show:
        sys.stdout.write(f"ldm-ray {__version__}\n")
        raise typer.Exit()


def _show_prediction(query: "object", predictions: "object", top: int, json: bool) -> None:
    from ldm_ray.predictor import Predictions, Query

    assert isinstance(query, Query)
    assert isinstance(predictions, Predictions)
    delta, std, mean = predictions.delta[0], predictions.std[0], predictions.mean[0]
    order = delta.argsort()
    if json:
        genes = {
            gene: {"mean": float(mean[i]), "delta": float(delta[i]), "std": float(std[i])}
            for i, gene in enumerate(predictions.genes)
        }
        print_json({"smiles": query.smiles, "cell": query.cell, "dose_um": query.dose_um, "time_h": query.time_h}
                   | {"similarity": float(predictions.similarity[0]), "note": predictions.notes[0],
                      "out_of_domain": bool(predictions.out_of_domain[0]), "genes": genes})  # fmt: skip
    rows = [
        [predictions.genes[i], f"{delta[i]:+.3f}", f"{std[i]:.3f}", f"{mean[i]:.2f}"]
        for i in [*order[::-1][:top], *order[:top][::-1]]
    ]
    title = f"{query.smiles} on {query.cell}, {query.dose_um:g} um, {query.time_h:g} h"
    head = ["gene", "change (log2)", "sd of a well", "expression (log2)"]
    flag = "OUT OF DOMAIN: " if predictions.out_of_domain[0] else ""
    near = f"nearest training compound: Tanimoto similarity {predictions.similarity[0]:.2f}"
    show_table(title, head, rows, flag + (predictions.notes[0] or near))


def main() -> None:
    """Run the command line: what a user did wrong is one line and exit code 2."""
    # Ray's node prints its warnings on standard output, where `--json` promises one object and nothing else;
    # that two cores run many small processes is not worth one.
    skipped = "." if "--json" in sys.argv else "worker processes have been started on node"
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", skipped)
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


if __name__ == "__main__":
    main()
