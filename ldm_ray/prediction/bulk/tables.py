"""Tables of queries in, tables of predictions out."""

import json
import tempfile
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa

from ldm_ray.errors import LdmRayError, QueryError
from ldm_ray.prediction.predictor import Predictions, Query
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.store import list_column, split_url

QUERY_COLUMNS = ("smiles", "cell", "dose_um", "time_h")
OUT_FORMATS = (".parquet", ".h5ad")


def read_queries(url: str, storage_options: StorageOptions | None = None) -> list[Query]:
    """Read a CSV or Parquet table with columns smiles, cell, dose_um and time_h.

    Raises:
        QueryError: For another format, a missing column, an empty table or a dose or time that is no number.
        StoreError: If it cannot be read.
    """
    store, name = split_url(url, storage_options)
    if name.endswith(".parquet"):
        frame = store.read_table(name).to_pandas()
    elif name.endswith((".csv", ".tsv", ".txt")):
        separator = "," if name.endswith(".csv") else "\t"
        try:
            frame = pd.read_csv(pa.BufferReader(store.read_bytes(name)), sep=separator)
        except ValueError as error:
            if isinstance(error, LdmRayError):
                raise
            raise QueryError(f"{url} is not a table: {' '.join(str(error).split())}") from None
    else:
        raise QueryError(f"--conditions must be a .csv, .tsv or .parquet table; got {name!r}")
    missing = [column for column in QUERY_COLUMNS if column not in frame.columns]
    if missing:
        raise QueryError(f"{url} must have the columns {', '.join(QUERY_COLUMNS)}; it lacks {missing[0]!r}")
    if frame.empty:
        raise QueryError(f"{url} holds no query")
    numbers = {name: pd.to_numeric(frame[name], errors="coerce") for name in ("dose_um", "time_h")}
    for name, values in numbers.items():
        if values.isna().any():
            row = int(np.flatnonzero(values.isna())[0])
            raise QueryError(f"{url}, row {row + 1}: {name} must be a number above 0; got {frame[name].iloc[row]!r}")
    rows = zip(
        frame["smiles"].astype(str),
        frame["cell"].astype(str),
        numbers["dose_um"],
        numbers["time_h"],
        strict=True,
    )
    return [Query(smiles, float(dose), float(time), cell) for smiles, cell, dose, time in rows]


def check_out(url: str) -> None:
    """Refuse an output whose format is not known, before anything is computed."""
    if not url.endswith(OUT_FORMATS):
        raise QueryError(f"--out must end in {' or '.join(OUT_FORMATS)}; got {url!r}")


def write_predictions(
    url: str,
    queries: list[Query],
    predictions: Predictions,
    settings: dict[str, Any] | None = None,
    storage_options: StorageOptions | None = None,
) -> None:
    """Write predictions as Parquet (lists `basal`, `mean`, `std`, genes in the metadata) or as h5ad.

    In the h5ad X is the mean, layers hold `basal`, `std` and `delta`, and obs the queries. What was asked (bundle,
    samples, steps, seed) is kept in the Parquet metadata `settings`, or in `uns`.
    """
    store, name = split_url(url, storage_options)
    columns = {column: [getattr(query, column) for query in queries] for column in QUERY_COLUMNS}
    columns["similarity"] = predictions.similarity.tolist()
    columns["out_of_domain"] = predictions.out_of_domain.tolist()
    columns["note"] = list(predictions.notes)
    if name.endswith(".parquet"):
        metadata = {"genes": "\t".join(predictions.genes), "settings": json.dumps(settings or {})}
        arrays = {key: list_column(getattr(predictions, key)) for key in ("basal", "mean", "std")}
        table = pa.table(columns | arrays)
        store.write_table(name, table.replace_schema_metadata(metadata))
        return
    adata = anndata.AnnData(
        X=predictions.mean,
        obs=pd.DataFrame(columns, index=[str(i) for i in range(len(queries))]),
        var=pd.DataFrame(index=list(predictions.genes)),
        uns={"settings": settings or {}},
        layers={"basal": predictions.basal, "std": predictions.std, "delta": predictions.delta},
    )
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.h5ad"
        adata.write_h5ad(part)
        store.write_bytes(name, part.read_bytes())
