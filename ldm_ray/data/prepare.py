"""From a release to the paired dataset: clean, pair, split, write; the manifest comes last."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ldm_ray.config import Config, dump_config
from ldm_ray.data.cleaning import Ledger, clean, condition_ids, require_wells
from ldm_ray.data.pairing import Pairing, dmso_wells, pair
from ldm_ray.data.release import Release
from ldm_ray.data.splits import folds_of, splits_of
from ldm_ray.data.store import Store, list_column
from ldm_ray.errors import DataError
from ldm_ray.schema import (
    BASAL,
    CELLS,
    CELLS_SCHEMA,
    COMPOUNDS,
    COMPOUNDS_SCHEMA,
    EMBEDDINGS,
    MANIFEST,
    PROFILES,
    SCHEMA_VERSION,
    SETTINGS,
    TRUTH,
    basal_schema,
    profiles_schema,
)

Progress = Callable[[int, int], None]
CONTENT = (PROFILES, BASAL, COMPOUNDS, CELLS, EMBEDDINGS, TRUTH)
UNFINISHED = ".unfinished"
"""Marks a folder whose prepare has not ended, so that a killed one may be started again."""
PAPER_COUNTS = {"profiles": 836_841, "cell_lines": 82, "compounds": 17_766}


def prepare(
    release: Release,
    root: str,
    config: Config,
    overwrite: bool = False,
    on_progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Write the paired dataset of a release and return its manifest.

    Args:
        release: What `read_l1000` or `read_h5ad` opened.
        root: Folder URL of the dataset.
        config: Settings `cleaning`, `pairing`, `splits` and `prepare`.
        overwrite: Replace a dataset that is already there.
        on_progress: Called with treated wells written and in all.

    Raises:
        DataError: If a dataset is there already, or no well survives.
        StoreError: If a file cannot be read or written; then no manifest is left behind.
    """
    store = Store(root)
    _check_root(store, overwrite)
    ledger = Ledger()
    treated = clean(release.wells, config.cleaning, ledger)
    paired = pair(treated, dmso_wells(release.wells), config.pairing, config.splits.seed)
    rule = "a DMSO well of the same cell line and time (iii)"
    ledger.note(rule, len(treated), len(paired.wells), paired.wells["parent"].nunique())
    require_wells(paired.wells, ledger)
    wells, compounds, cells = _number(paired.wells, config)
    basal = _basal_table(paired, cells, release, config)
    truth_file = release.sources[0].parent / TRUTH
    truth = truth_file.read_bytes() if truth_file.is_file() else None
    _remove_dataset(store)
    try:
        store.write_bytes(UNFINISHED, b"")
        store.write_table(COMPOUNDS, compounds)
        store.write_table(CELLS, cells)
        store.write_table(BASAL, basal)
        files = _write_profiles(store, wells, release, config, on_progress)
        if truth is not None:
            store.write_bytes(TRUTH, truth)
        store.write_bytes(SETTINGS, dump_config(config).encode())
        manifest = _manifest(release, config, ledger, paired, wells, files, truth is not None)
        store.write_json(MANIFEST, manifest)
        store.remove(UNFINISHED)
    except BaseException:
        _remove_dataset(store)
        raise
    return manifest


def _check_root(store: Store, overwrite: bool) -> None:
    """Refuse a root that holds a dataset, or files that only look like one's and are somebody else's.

    Raises:
        DataError: Naming what is in the way.
    """
    if store.exists(MANIFEST):
        if not overwrite:
            raise DataError(f"{store.url} already holds a dataset; --overwrite replaces it")
        return
    foreign = next((name for name in CONTENT if store.exists(name)), None)
    if foreign is not None and not store.exists(UNFINISHED):
        raise DataError(f"{store.url} holds {foreign!r} but no dataset; choose another --out")


def _remove_dataset(store: Store) -> None:
    """Remove the manifest first, so that a half-removed dataset does not look complete."""
    for name in (MANIFEST, *CONTENT, UNFINISHED):
        store.remove(name)


def _number(wells: pd.DataFrame, config: Config) -> tuple[pd.DataFrame, pa.Table, pa.Table]:
    """Give compounds, cell lines and conditions their numbers, and wells their splits."""
    parents = np.unique(wells["parent"])
    cell_names = np.unique(wells["cell"])
    split = splits_of(wells["parent"].to_numpy(), "compound", config.splits)
    wells = wells.assign(
        compound_id=np.searchsorted(parents, wells["parent"]).astype(np.int32),
        cell_id=np.searchsorted(cell_names, wells["cell"]).astype(np.int16),
        condition_id=condition_ids(wells),
        split=split,
        fold=folds_of(wells["parent"].to_numpy(), split, config.splits),
        cell_split=splits_of(wells["cell"].to_numpy(), "cell", config.splits),
        plate_split=splits_of(wells["batch"].to_numpy(), "batch", config.splits),
    )
    groups = wells.groupby("compound_id", sort=True)
    compounds = pa.table(
        {
            "compound_id": np.arange(len(parents)),
            "source_ids": [sorted(set(values)) for values in groups["source_id"].agg(list)],
            "names": [sorted(set(values)) for values in groups["name"].agg(list)],
            "smiles": groups["canonical"].min().to_list(),
            "parent_smiles": parents.tolist(),
            "inchikey": groups["inchikey"].first().to_list(),
            "n_profiles": groups.size().to_list(),
        }
    ).cast(COMPOUNDS_SCHEMA)
    counts = wells.groupby("cell_id", sort=True).size().to_list()
    cells = {"cell_id": np.arange(len(cell_names)), "name": cell_names.tolist(), "n_profiles": counts}
    return wells, compounds, pa.table(cells).cast(CELLS_SCHEMA)


def _basal_table(paired: Pairing, cells: pa.Table, release: Release, config: Config) -> pa.Table:
    """Average the DMSO wells of each control profile."""
    rows, inverse = np.unique(paired.members["row"].to_numpy(), return_inverse=True)
    genes = release.genes.columns
    controls = np.empty((len(rows), len(genes)), dtype=np.float32)
    for positions, values in release.reader.blocks(rows, genes, config.prepare.block_mb):
        controls[positions] = values
    basal = paired.basal
    sums = np.zeros((len(basal), len(genes)))
    np.add.at(sums, paired.members["basal_id"].to_numpy(), controls[inverse])
    means = sums / basal["n_wells"].to_numpy()[:, None]
    numbers = {name: i for i, name in enumerate(cells["name"].to_pylist())}
    columns = [
        pa.array(basal["basal_id"]),
        pa.array(basal["cell"].map(numbers).to_numpy(), pa.int16()),
        pa.array(basal["plate"].to_list(), pa.string()),
        pa.array(basal["time_h"].to_numpy(), pa.float32()),
        pa.array(basal["role"].to_list(), pa.string()),
        pa.array(basal["n_wells"].to_numpy(), pa.int32()),
        list_column(means.astype(np.float32)),
    ]
    return pa.Table.from_arrays(columns, schema=basal_schema(len(genes)))


def _write_profiles(
    store: Store, wells: pd.DataFrame, release: Release, config: Config, on_progress: Progress
) -> list[dict[str, Any]]:
    genes = release.genes.columns
    schema = profiles_schema(len(genes))
    plain = [name for name in schema.names if name != "expression"]
    rows = wells["row"].to_numpy()
    files: list[dict[str, Any]] = []
    parts: list[pa.Table] = []

    def flush(at_least: int) -> None:
        while parts and sum(len(part) for part in parts) >= at_least:
            table = pa.concat_tables(parts).combine_chunks()
            head = table.slice(0, config.prepare.rows_per_file)
            parts[:] = [table.slice(len(head))] if len(table) > len(head) else []
            name = f"{PROFILES}/part-{len(files):05d}.parquet"
            store.write_table(name, head)
            files.append({"path": name, "rows": len(head)})

    done = 0
    for positions, values in release.reader.blocks(rows, genes, config.prepare.block_mb):
        frame = wells.iloc[positions][plain]
        columns = {name: pa.array(frame[name].to_numpy(), schema.field(name).type) for name in plain}
        columns["expression"] = list_column(values)
        parts.append(pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema))
        flush(config.prepare.rows_per_file)
        done += len(positions)
        on_progress(done, len(wells))
    flush(1)
    return files


def _manifest(
    release: Release,
    config: Config,
    ledger: Ledger,
    paired: Pairing,
    wells: pd.DataFrame,
    files: list[dict[str, Any]],
    simulated: bool,
) -> dict[str, Any]:
    genes = release.genes
    pairs = zip(genes.entrez_ids.tolist(), genes.symbols.tolist(), strict=True)
    return {
        "schema_version": SCHEMA_VERSION,
        "simulated": simulated,
        "n_profiles": len(wells),
        "n_compounds": int(wells["compound_id"].nunique()),
        "n_cell_lines": int(wells["cell_id"].nunique()),
        "n_conditions": int(wells["condition_id"].nunique()),
        "paper_counts": PAPER_COUNTS,
        "counts": release.counts,
        "cleaning": ledger.steps,
        "pairing_levels": {str(k): int(v) for k, v in wells["pairing_level"].value_counts().items()},
        "control_profiles": {str(k): int(v) for k, v in paired.basal["role"].value_counts().items()},
        "wells_without_reserved_control": int((wells["reserved_basal_id"] < 0).sum()),
        "missing_genes": list(genes.missing),
        "notes": list(release.notes),
        "splits": {
            "definition": "sha256(seed, kind, name): compound by parent SMILES, cell line, batch of plates",
            **config.splits.model_dump(),
            **{
                name: {str(k): int(v) for k, v in wells[name].value_counts().items()}
                for name in ("split", "cell_split", "plate_split")
            },
        },
        "settings": config.model_dump(mode="json", include={"cleaning", "pairing", "splits", "prepare"}),
        "sources": [
            {"name": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path)} for path in release.sources
        ],
        "files": files,
        "genes": [{"entrez_id": entrez, "symbol": symbol} for entrez, symbol in pairs],
    }


def _sha256(path: Any) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
