"""`ldm-ray predict`: one condition, a table of them, or very many."""

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from ldm_ray.cli.options import ConfigFile, Json, Overrides, Overwrite, Seed, settings
from ldm_ray.config import Config
from ldm_ray.console import counting, print_json, say, show_table, spinning
from ldm_ray.errors import QueryError

if TYPE_CHECKING:
    import pyarrow as pa

    from ldm_ray.prediction.bulk.conditions import Grid

EPILOG = (
    "Examples: `ldm-ray predict --bundle runs/ldm --smiles 'CC(=O)Oc1ccccc1C(=O)O' --cell A375 --dose-um 10 --time-h"
    " 24`; a table: `ldm-ray predict --bundle runs/ldm --conditions queries.csv --out predictions.h5ad`; many, in parts"
    " on Ray, going on where it was: `ldm-ray predict --bundle runs/ldm --conditions s3://b/many.parquet --out s3://b/p`;"
    " a grid: `ldm-ray predict --bundle runs/ldm --compounds smiles.txt --cells A375,MCF7 --doses-um 1,10 --times-h 24"
    " --out runs/grid`"
)


def predict(
    *,
    bundle: Annotated[str, typer.Option(help="Bundle of a trained model.")],
    smiles: Annotated[str | None, typer.Option(help="The compound.")] = None,
    cell: Annotated[str | None, typer.Option(help="A cell line of the bundle.")] = None,
    dose_um: Annotated[float | None, typer.Option(help="Micromolar.")] = None,
    time_h: Annotated[float | None, typer.Option(help="Hours.")] = None,
    conditions: Annotated[str | None, typer.Option(help="Table of queries: smiles, cell, dose_um, time_h.")] = None,
    compounds: Annotated[str | None, typer.Option(help="Of a grid: file with a SMILES a line.")] = None,
    cells: Annotated[str | None, typer.Option(help="Of a grid: cell lines, comma-separated.")] = None,
    doses_um: Annotated[str | None, typer.Option(help="Of a grid: micromolar, comma-separated.")] = None,
    times_h: Annotated[str | None, typer.Option(help="Of a grid: hours, comma-separated.")] = None,
    out: Annotated[str | None, typer.Option(help="File (.parquet, .h5ad), or folder for many, in parts.")] = None,
    n_samples: Annotated[int | None, typer.Option(help="Latent samples a query.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps.")] = None,
    top: Annotated[int, typer.Option(help="Genes shown up and down.", min=1)] = 10,
    overwrite: Overwrite = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Predict one condition, a table of them, or very many in parts."""
    asked = settings(config, overrides, seed)
    single, grid = (smiles, cell, dose_um, time_h), (compounds, cells, doses_um, times_h)
    given = asked.predict.model_fields_set
    n_samples = n_samples or (asked.predict.n_samples if "n_samples" in given else None)
    steps = steps or (asked.predict.steps if "steps" in given else None)
    if all(value is not None for value in single) and not any([conditions, *grid]):
        _one(bundle=bundle, single=single, asked=asked, n_samples=n_samples, steps=steps, top=top, json=json)  # type: ignore[arg-type]
        return
    if any(value is not None for value in single) or (conditions is None) == (compounds is None):
        raise QueryError(
            "give --smiles, --cell, --dose-um and --time-h, or --conditions and --out, or --compounds, --cells,"
            " --doses-um, --times-h and --out"
        )
    if out is None:
        raise QueryError(f"{'--conditions' if conditions else '--compounds'} wants --out")
    if conditions is not None and PurePosixPath(out).suffix:
        _table(bundle=bundle, conditions=conditions, out=out, asked=asked, n_samples=n_samples, steps=steps, json=json)
        return
    _many(
        bundle=bundle,
        conditions=conditions,
        grid=grid,
        out=out,
        asked=asked,
        n_samples=n_samples,
        steps=steps,
        overwrite=overwrite,
        json=json,
    )


def _one(
    *,
    bundle: str,
    single: tuple[str, str, float, float],
    asked: Config,
    n_samples: int | None,
    steps: int | None,
    top: int,
    json: bool,
) -> None:
    from ldm_ray.prediction.predictor import Predictor, Query

    query = Query(single[0], single[2], single[3], single[1])
    predictor = Predictor.from_bundle(bundle, storage_options=asked.storage_options)
    with spinning("sampling"):
        predictions = predictor.predict([query], n_samples, steps, asked.seed)
    _show_prediction(query, predictions, top, json=json)


def _table(
    *, bundle: str, conditions: str, out: str, asked: Config, n_samples: int | None, steps: int | None, json: bool
) -> None:
    from ldm_ray.prediction.bulk.tables import check_out, read_queries, write_predictions
    from ldm_ray.prediction.predictor import Predictor

    check_out(out)
    queries = read_queries(conditions, asked.storage_options)
    predictor = Predictor.from_bundle(bundle, storage_options=asked.storage_options)
    with spinning(f"sampling {len(queries):,} conditions"):
        predictions = predictor.predict(queries, n_samples, steps, asked.seed)
    used = {"bundle": bundle, "seed": asked.seed} | predictor.used(n_samples, steps)
    write_predictions(out, queries, predictions, used, asked.storage_options)
    say(f"{len(queries):,} predictions in {out}")
    if json:
        print_json({"predictions": out, "n": len(queries)})


def _many(
    *,
    bundle: str,
    conditions: str | None,
    grid: tuple[str | None, ...],
    out: str,
    asked: Config,
    n_samples: int | None,
    steps: int | None,
    overwrite: bool,
    json: bool,
) -> None:
    from ldm_ray.cluster.batch.predict import predict_many
    from ldm_ray.prediction.bulk.conditions import read_tables

    rows = asked.predict.rows_per_part

    product = None if conditions is not None else _grid(grid, asked)
    source = conditions if product is None else product.fingerprint

    def tables() -> "Iterable[pa.Table]":
        return read_tables(str(conditions), asked.storage_options) if product is None else product.tables(rows)

    with counting("conditions") as progress:
        manifest = predict_many(
            tables, str(source), bundle, out, asked, n_samples, steps, overwrite=overwrite, on_progress=progress
        )
    say(f"{manifest['n_predicted']:,} predictions in {out}")
    if manifest["n_errors"]:
        say(f"{manifest['n_errors']:,} conditions were refused; why: {out}/errors/")
    if json:
        print_json(manifest)


def _grid(grid: tuple[str | None, ...], asked: Config) -> "Grid":
    from ldm_ray.prediction.bulk.conditions import Grid as Product
    from ldm_ray.storage.store import split_url

    compounds, cells, doses_um, times_h = grid
    if not compounds or not cells or not doses_um or not times_h:
        raise QueryError("a grid wants --compounds, --cells, --doses-um and --times-h")
    store, name = split_url(compounds, asked.storage_options)
    smiles = [line.strip() for line in store.read_bytes(name).decode().splitlines() if line.strip()]
    return Product(smiles, _listed(cells), _numbers("--doses-um", doses_um), _numbers("--times-h", times_h))


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in _listed(text)]
    except ValueError:
        raise QueryError(f"{option} must be numbers, comma-separated; got {text!r}") from None


def _show_prediction(query: "object", predictions: "object", top: int, *, json: bool) -> None:
    from ldm_ray.prediction.predictor import Predictions, Query

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
