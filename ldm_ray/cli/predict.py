"""`ldm-ray predict`: one condition, a table, or a table or grid too large for one file."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ldm_ray.cli.options import ConfigFile, Json, Overrides, Overwrite, Seed, settings
from ldm_ray.cli.question import One, Product, Table, question
from ldm_ray.config import Config
from ldm_ray.console import counting, print_json, say, show_table, spinning
from ldm_ray.errors import QueryError

if TYPE_CHECKING:
    import pyarrow as pa

    from ldm_ray.prediction.bulk.conditions import Conditions
    from ldm_ray.prediction.bulk.grid import Grid
    from ldm_ray.prediction.predictor import Predictions
    from ldm_ray.prediction.queries import Query

EPILOG = (
    "Examples:\n\n\n\n"
    "- one condition: `ldm-ray predict --bundle runs/ldm --smiles 'CC(=O)Oc1ccccc1C(=O)O' --cell A375 --dose-um 10"
    " --time-h 24`\n\n"
    "- a table: `ldm-ray predict --bundle runs/ldm --conditions queries.csv --out predictions.h5ad`\n\n"
    "- a large table, in parts on Ray; the same command resumes it: `ldm-ray predict --bundle runs/ldm --conditions"
    " s3://b/many.parquet --out s3://b/p`\n\n"
    "- a grid: `ldm-ray predict --bundle runs/ldm --compounds smiles.txt --cells A375,MCF7 --doses-um 1,10 --times-h 24"
    " --out runs/grid`"
)


def predict(
    *,
    bundle: Annotated[str, typer.Option(help="Bundle of a trained model, path or URL.")],
    smiles: Annotated[str | None, typer.Option(help="The compound, as SMILES.")] = None,
    cell: Annotated[str | None, typer.Option(help="A cell line that the bundle knows.")] = None,
    dose_um: Annotated[float | None, typer.Option(help="Dose in micromolar.")] = None,
    time_h: Annotated[float | None, typer.Option(help="Exposure in hours.")] = None,
    conditions: Annotated[
        str | None,
        typer.Option(help="Table with columns smiles, cell, dose_um, time_h, perhaps name: .csv, .tsv or .parquet."),
    ] = None,
    compounds: Annotated[
        str | None,
        typer.Option(help="Grid: file with one SMILES per line, and perhaps a name after it (.smi, .txt, .csv)."),
    ] = None,
    cells: Annotated[str | None, typer.Option(help="Grid: cell lines, comma-separated.")] = None,
    doses_um: Annotated[str | None, typer.Option(help="Grid: doses in micromolar, comma-separated.")] = None,
    times_h: Annotated[str | None, typer.Option(help="Grid: exposures in hours, comma-separated.")] = None,
    out: Annotated[
        str | None,
        typer.Option(help="File (.parquet, .h5ad), or a folder for predictions in parts; folder/ is always one."),
    ] = None,
    n_samples: Annotated[int | None, typer.Option(help="Latent samples per condition; default: the bundle's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; default: the bundle's.")] = None,
    top: Annotated[int, typer.Option(help="How many genes to show in each direction.", min=1)] = 10,
    overwrite: Overwrite = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Predict one condition, a table of conditions, or a grid."""
    asked = settings(config, overrides, seed)
    given = asked.predict.model_fields_set
    how = _How(
        bundle=bundle,
        config=asked,
        n_samples=n_samples or (asked.predict.n_samples if "n_samples" in given else None),
        steps=steps or (asked.predict.steps if "steps" in given else None),
        json=json,
    )
    single, grid = (smiles, cell, dose_um, time_h), (compounds, cells, doses_um, times_h)
    what = question(single, conditions, grid, out)
    from ldm_ray.bundle.presence import require_bundle

    require_bundle(bundle, asked.storage_options)
    match what:
        case One():
            _predict_one(what, how, top)
        case Table(in_parts=False):
            _predict_table(what, how)
        case Table(conditions=url, out=folder):
            _predict_parts(url, lambda: _opened(url, asked).tables(), folder, how, overwrite=overwrite)
        case Product():
            conditions_of = _grid(what, asked)
            rows = asked.predict.rows_per_part
            _predict_parts(
                conditions_of.fingerprint, lambda: conditions_of.tables(rows), what.out, how, overwrite=overwrite
            )


@dataclass(frozen=True, kw_only=True)
class _How:
    """Which model to use, and how to sample it; None takes the bundle's own value."""

    bundle: str
    config: Config
    n_samples: int | None
    steps: int | None
    json: bool


def _predict_one(one: One, how: _How, top: int) -> None:
    from ldm_ray.prediction.predictor import Predictor, Query

    query = Query(one.smiles, one.dose_um, one.time_h, one.cell)
    predictor = Predictor.from_bundle(how.bundle, storage_options=how.config.storage_options)
    with spinning("sampling"):
        predictions = predictor.predict([query], how.n_samples, how.steps, how.config.seed)
    if how.json:
        print_json(_as_json(query, predictions))
    _show_prediction(query, predictions, top)


def _predict_table(table: Table, how: _How) -> None:
    conditions = _opened(table.conditions, how.config)
    from ldm_ray.prediction.bulk.tables import queries_in, write_predictions
    from ldm_ray.prediction.predictor import Predictor

    options, seed = how.config.storage_options, how.config.seed
    queries = queries_in(conditions)
    predictor = Predictor.from_bundle(how.bundle, storage_options=options)
    with spinning(f"sampling {len(queries):,} conditions"):
        predictions = predictor.predict(queries, how.n_samples, how.steps, seed)
    used = {"bundle": how.bundle, "seed": seed} | predictor.used(how.n_samples, how.steps)
    write_predictions(table.out, queries, predictions, used, options)
    say(f"{len(queries):,} predictions in {table.out}")
    if how.json:
        print_json({"predictions": table.out, "n": len(queries)})


def _predict_parts(
    source: str, tables: "Callable[[], Iterable[pa.Table]]", out: str, how: _How, *, overwrite: bool
) -> None:
    from ldm_ray.cluster.batch.predict import BulkPrediction, predict_many

    asked = BulkPrediction(
        tables=tables,
        source=source,
        bundle=how.bundle,
        out=out,
        config=how.config,
        n_samples=how.n_samples,
        steps=how.steps,
        overwrite=overwrite,
    )
    with counting("conditions") as progress:
        manifest = predict_many(asked, progress)
    say(f"{manifest['n_predicted']:,} predictions in {out}")
    if manifest["n_errors"]:
        say(f"{manifest['n_errors']:,} conditions were refused; see {out}/errors/")
    if how.json:
        print_json(manifest)


def _opened(url: str, config: Config) -> "Conditions":
    """Open a table of conditions, and say what is unusual in how it was read."""
    from ldm_ray.prediction.bulk.conditions import open_conditions

    conditions = open_conditions(url, config.storage_options)
    if conditions.unusual:
        say(conditions.unusual)
    return conditions


def _grid(product: Product, config: Config) -> "Grid":
    from ldm_ray.prediction.bulk.compounds import read_compounds
    from ldm_ray.prediction.bulk.grid import Grid

    compounds = read_compounds(product.compounds, config.storage_options)
    if compounds.unusual:
        say(compounds.unusual)
    doses_um, times_h = _numbers("--doses-um", product.doses_um), _numbers("--times-h", product.times_h)
    return Grid(compounds, _listed(product.cells), doses_um, times_h)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in _listed(text)]
    except ValueError:
        raise QueryError(f"{option} must be numbers, comma-separated; got {text!r}") from None


def _as_json(query: "Query", predictions: "Predictions") -> dict[str, object]:
    """Return everything known about one prediction, as plain values."""
    genes = {
        gene: {"mean": float(mean), "delta": float(delta), "std": float(std)}
        for gene, mean, delta, std in zip(
            predictions.genes, predictions.mean[0], predictions.delta[0], predictions.std[0], strict=True
        )
    }
    return {
        "smiles": query.smiles,
        "cell": query.cell,
        "dose_um": query.dose_um,
        "time_h": query.time_h,
        "similarity": float(predictions.similarity[0]),
        "note": predictions.notes[0],
        "out_of_domain": bool(predictions.out_of_domain[0]),
        "genes": genes,
    }


def _show_prediction(query: "Query", predictions: "Predictions", top: int) -> None:
    """Print the genes that change most, up and down."""
    delta, std, mean = predictions.delta[0], predictions.std[0], predictions.mean[0]
    order = delta.argsort()
    rows = [
        [predictions.genes[i], f"{delta[i]:+.3f}", f"{std[i]:.3f}", f"{mean[i]:.2f}"]
        for i in [*order[::-1][:top], *order[:top][::-1]]
    ]
    title = f"{query.smiles} on {query.cell}, {query.dose_um:g} um, {query.time_h:g} h"
    head = ["gene", "change (log2)", "sd of a well", "expression (log2)"]
    flag = "OUT OF DOMAIN: " if predictions.out_of_domain[0] else ""
    near = f"nearest training compound: Tanimoto similarity {predictions.similarity[0]:.2f}"
    show_table(title, head, rows, flag + (predictions.notes[0] or near))
