"""What goes wrong with files: columns dropped, units changed, files cut, encodings mixed up, values of another kind."""

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd

from ldm_ray.data.releases.gctx import COLUMN_IDS, MATRIX, ROW_IDS
from ldm_ray.data.releases.paths import ReleasePaths

Rng = np.random.Generator
SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": np.exp2,
    "counts": np.floor,
    "z-scores": lambda x: (x - x.mean(0)) / x.std(0),
    "log1p of counts": lambda x: np.log1p(np.floor(np.exp2(x - 4))).astype(np.float32),
    "with NaN": lambda x: np.where(np.arange(x.size).reshape(x.shape) % 97 == 0, np.nan, x),
}


def change_table(rng: Rng, table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Change one thing of a table of wells or compounds; say what."""
    columns = list(table.columns)
    column = str(rng.choice(columns))
    row = int(rng.integers(len(table)))
    what = str(
        rng.choice(["drop", "rename", "upper", "case", "words", "unit", "comma", "empty", "text", "twice", "zero"])
    )
    table = table.astype(object)
    if what == "drop":
        return table.drop(columns=column), f"without {column}"
    if what == "rename":
        return table.rename(columns={column: "something"}), f"{column} renamed"
    if what == "upper":
        return table.rename(columns={name: str(name).upper() for name in columns}), "names in upper case"
    if what == "case":
        return table.rename(columns={name: str(name).replace("_", " ") for name in columns}), "blanks in names"
    if what == "words":
        words = [name for name in columns if name in ("pert_type", "qc_pass", "perturbation")] or [column]
        return table.assign(**{words[0]: "banana"}), f"{words[0]} is banana"
    if what in ("unit", "comma", "text", "zero"):
        amounts = [name for name in columns if name in ("pert_dose", "pert_time", "dose_value", "time")] or [column]
        name = str(rng.choice(amounts))
        if what == "unit":
            name = name.removesuffix("_value") + "_unit"
            table.loc[table.index[row:], name] = str(rng.choice(["mg/mL", "weeks", "", "uM/h"]))
        else:
            new = {"comma": "1,11", "text": "high", "zero": "0"}[what]
            table.loc[table.index[row:], name] = new
        return table, f"{what} in {name}"
    if what == "empty":
        table.loc[table.index[row], column] = ""
        return table, f"{column} empty in a row"
    return pd.concat([table, table.iloc[[row]].assign(**{column: "other"})]), f"a row twice, with another {column}"


def change_bytes(rng: Rng, path: Path) -> str:
    """Change how a text file is stored; say how."""
    content = path.read_bytes()
    text = content.decode()
    ways: dict[str, Callable[[], bytes]] = {
        "cut": lambda: content[: int(rng.integers(1, len(content)))],
        "utf-16": lambda: text.encode("utf-16"),
        "utf-16 without mark": lambda: text.encode("utf-16-le"),
        "latin-1": lambda: text.encode("latin-1", "replace"),
        "byte order mark": lambda: b"\xef\xbb\xbf" + content,
        "gzip": lambda: gzip.compress(content),
        "cut gzip": lambda: gzip.compress(content)[:-20],
        "crlf": lambda: text.replace("\n", "\r\n").encode(),
        "semicolons": lambda: text.replace("\t", ";").encode(),
        "commas": lambda: text.replace("\t", ",").encode(),
        "zeros": lambda: content[:200] + b"\x00" * 30 + content[200:],
        "web page": lambda: b"<!DOCTYPE html><html>not found</html>",
        "empty": lambda: b"",
        "no line end": lambda: content.rstrip(b"\n"),
    }
    way = str(rng.choice(list(ways)))
    path.write_bytes(ways[way]())
    return f"{path.name}: {way}"


def change_hdf5(rng: Rng, path: Path) -> str:
    """Change a GCTX or h5ad file; say how."""
    what = str(rng.choice(["cut", "gzip", "swap", "values", "ids"]))
    if what == "cut":
        content = path.read_bytes()
        path.write_bytes(content[: int(rng.integers(1, len(content)))])
        return f"{path.name}: cut"
    if what == "gzip":
        path.write_bytes(gzip.compress(path.read_bytes(), compresslevel=1))
        return f"{path.name}: gzip"
    if path.suffix == ".gctx":
        return _change_gctx(rng, path, what)
    return _change_h5ad(rng, path)


def _change_gctx(rng: Rng, path: Path, what: str) -> str:
    with h5py.File(path, "r+") as file:
        if what == "values":
            scale = str(rng.choice(list(SCALES)))
            file[MATRIX][...] = SCALES[scale](file[MATRIX][...])
            return f"{path.name}: {scale}"
        if what == "swap":
            values = file[MATRIX][...].T
            del file[MATRIX]
            file[MATRIX] = values
            return f"{path.name}: transposed"
        name = str(rng.choice([ROW_IDS, COLUMN_IDS]))
        ids = file[name][...].astype("S20" if file[name].dtype.kind in "if" else file[name].dtype).astype(object)
        way = str(rng.choice(["cut", "twice", "missing"]))
        if way == "cut":
            ids = [(one if isinstance(one, bytes) else str(one).encode())[:3] for one in ids]
        if way == "twice":
            ids[1] = ids[0]
        del file[name]
        if way != "missing":
            file[name] = np.array([one if isinstance(one, bytes) else str(one).encode() for one in ids], dtype="S64")
        return f"{path.name}: {name} {way}"


def _change_h5ad(rng: Rng, path: Path) -> str:
    data = anndata.read_h5ad(path) if path.suffix == ".h5ad" else anndata.read_zarr(path)
    ways = ["obs", "obs", "obs", "values", "var", "names", "layer"]
    way = str(rng.choice(ways))
    said = way
    if way == "obs":
        obs, said = change_table(rng, data.obs)
        data = anndata.AnnData(data.X, obs.iloc[: data.n_obs].astype(str), data.var)  # a repeated row has no values
    elif way == "values":
        scale = str(rng.choice(list(SCALES)))
        dense = data.X if isinstance(data.X, np.ndarray) else data.X.toarray()
        data.X, said = SCALES[scale](dense), scale
    elif way == "var":
        data.var.index = [f"ENSG{i:011d}" for i in range(data.n_vars)]
    elif way == "names":
        data.obs_names = [f"cell-{i % 7}" for i in range(data.n_obs)]
    else:
        data = anndata.AnnData(None, data.obs, data.var, layers={"log2": data.X})
    data.write_h5ad(path) if path.suffix == ".h5ad" else data.write_zarr(path)
    return f"{path.name}: {said}"


def mutate(rng: Rng, paths: ReleasePaths) -> str:
    """Change one thing about the files of a release; say what."""
    matrices: Sequence[str] = [*paths.gctx, *([paths.h5ad] if paths.h5ad else [])]
    texts: list[Any] = [*paths.inst_info, *paths.pert_info]
    if texts and rng.random() < 0.5:
        path = Path(str(rng.choice(texts)))
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        changed, said = change_table(rng, table)
        changed.to_csv(path, sep="\t", index=False)
        return f"{path.name}: {said}"
    if rng.random() < 0.4:
        return change_bytes(rng, Path(str(rng.choice([*texts, paths.gene_info]))))
    path = Path(str(rng.choice(list(matrices))))
    return _change_h5ad(rng, path) if path.suffix == ".zarr" else change_hdf5(rng, path)
