"""From a release to the paired dataset: clean, pair, split, write; the manifest is written last."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa

from ldm_ray.config import Config, dump_config
from ldm_ray.data.cell_names import spelt_alike
from ldm_ray.data.cleaning import Ledger, clean, condition_ids, counted, require_wells
from ldm_ray.data.manifest import Counted, Gene, Manifest, PaperCounts, read_manifest
from ldm_ray.data.pairing import Pairing, dmso_wells, pair
from ldm_ray.data.parts import PartRunner, PartWriter, cut, in_turn, plan_digest, read_controls
from ldm_ray.data.releases.release import Release
from ldm_ray.data.releases.scale import require_log2
from ldm_ray.data.splits import folds_of, splits_of
from ldm_ray.errors import DataError, StoreError
from ldm_ray.keys import keys_of
from ldm_ray.layout import (
    BASAL,
    CELLS,
    COMPOUNDS,
    EMBEDDINGS,
    LATENTS,
    MANIFEST,
    PLAN,
    PROFILES,
    SETTINGS,
    TRUTH,
    UNFINISHED,
)
from ldm_ray.schema import CELLS_SCHEMA, COMPOUNDS_SCHEMA, SCHEMA_VERSION, basal_schema, profiles_schema
from ldm_ray.storage.store import Store, list_column

OnWells = Callable[[int, int], None]
CONTENT = (PROFILES, BASAL, COMPOUNDS, CELLS, EMBEDDINGS, LATENTS, TRUTH)
PART_COLUMNS = ["row", *(name for name in profiles_schema(1).names if name != "expression")]
PAPER_COUNTS: PaperCounts = {"profiles": 836_841, "cell_lines": 82, "compounds": 17_766}


def prepare(
    release: Release,
    root: str,
    config: Config,
    *,
    overwrite: bool = False,
    on_progress: OnWells = lambda done, total: None,
    resume: bool = False,
    run: PartRunner = in_turn,
) -> Manifest:
    """Write the paired dataset of a release and return its manifest.

    Args:
        release: What `read_l1000` or `read_h5ad` opened.
        root: Folder URL of the dataset.
        config: Settings `cleaning`, `pairing`, `splits`, `prepare` and `storage_options`.
        overwrite: Replace an existing dataset.
        on_progress: Called with treated wells written and in total.
        resume: Continue an unfinished `prepare` of the same release and settings.
        run: Writes the parts; by default one by one in this process.

    Raises:
        DataError: If a dataset already exists, no well survives, or there is nothing to resume.
        StoreError: If a file cannot be read or written; there is then no manifest, and `resume` continues.
    """
    store = Store(root, config.storage_options)
    sources = [file.identity() for file in release.sources]
    settings = config.model_dump(mode="json", include={"cleaning", "pairing", "splits", "prepare"})
    settings["prepare"].pop("workers")
    digest = plan_digest(SCHEMA_VERSION, sources, settings, release.counts)
    if done := _check_root(store, overwrite=overwrite, resume=resume, digest=digest):
        return done
    ledger = Ledger()
    treated = clean(release.wells, config.cleaning, ledger)
    paired = pair(treated, dmso_wells(release.wells), config.pairing, config.splits.seed)
    rule = "a DMSO well of the same cell line and time (iii)"
    unpaired = treated.drop(paired.wells.index)
    why = counted(unpaired["cell"] + " at " + unpaired["time_h"].map("{:g} h".format))
    ledger.note(rule, len(treated), len(paired.wells), paired.wells["parent"].nunique(), why)
    require_wells(paired.wells, ledger, release.wells)
    require_log2(release, np.union1d(paired.wells["row"], paired.members["row"]))
    wells, compounds, cells = _number(paired.wells, config)
    parts = cut(wells[PART_COLUMNS], np.unique(paired.members["row"].to_numpy()), config.prepare.rows_per_file)
    truth_file = release.sources[0].beside(TRUTH)
    truth = truth_file.read_bytes() if truth_file.exists() else None
    if not resume:
        remove_dataset(store)
        store.write_json(PLAN, {"plan": digest})
    writer = PartWriter(release.reader.without_ids(), release.genes.columns, store, config.prepare.block_mb)
    records, rows_done = {}, 0
    try:
        for record in run(writer, parts):
            records[record["path"]] = record
            rows_done += record["rows"]
            on_progress(rows_done, len(wells))
    except StoreError as error:
        raise StoreError(f"{error}; finished files are kept, --resume continues") from None
    store.write_table(COMPOUNDS, compounds)
    store.write_table(CELLS, cells)
    store.write_table(BASAL, _basal_table(paired, cells, read_controls(store, parts)))
    if truth is not None:
        store.write_bytes(TRUTH, truth)
    store.write_bytes(SETTINGS, dump_config(config).encode())
    manifest: Manifest = {
        "schema_version": SCHEMA_VERSION,
        "plan": digest,
        "simulated": truth is not None,
        **_counted(release, config, ledger, paired, wells),
        "settings": settings,
        "sources": sources,
        "files": [records[part.path] for part in parts],
        "genes": _gene_list(release),
    }
    store.write_json(MANIFEST, manifest)
    store.remove(UNFINISHED)
    return manifest


def _check_root(store: Store, *, overwrite: bool, resume: bool, digest: str) -> Manifest | None:
    """Refuse a root that is in use; return the manifest if the wanted dataset is already complete.

    Raises:
        DataError: Names what is in the way, or why there is nothing to resume.
    """
    if resume and overwrite:
        raise DataError("--resume continues an unfinished prepare and --overwrite removes it; give only one of them")
    unfinished = store.exists(PLAN)
    if store.exists(MANIFEST):
        manifest = read_manifest(store)
        if resume and manifest.get("plan") == digest:
            store.remove(UNFINISHED)
            return manifest
        if resume:
            raise DataError(f"{store.url} already holds a dataset of another release or settings")
        if not overwrite:
            raise DataError(f"{store.url} already holds a dataset; --overwrite replaces it")
        return None
    if resume:
        if not unfinished:
            raise DataError(f"{store.url} holds no unfinished prepare to resume")
        if store.read_json(PLAN).get("plan") != digest:
            raise DataError(f"--resume needs the release and settings that {store.url} was started with; got others")
        return None
    if unfinished and not overwrite:
        raise DataError(f"{store.url} holds an unfinished prepare; --resume continues it, --overwrite starts over")
    foreign = next((name for name in CONTENT if store.exists(name)), None)
    if foreign is not None and not unfinished:
        raise DataError(f"{store.url} holds {foreign!r} but no dataset; choose another --out")
    return None


def remove_dataset(store: Store) -> None:
    """Remove the manifest first, so that a half-removed dataset never looks complete, nor its parts finished."""
    if store.exists(MANIFEST) or store.exists(PLAN):
        store.write_json(PLAN, {"plan": ""})
    for name in (MANIFEST, *CONTENT, UNFINISHED):
        store.remove(name)


def _number(wells: pd.DataFrame, config: Config) -> tuple[pd.DataFrame, pa.Table, pa.Table]:
    """Give compounds, cell lines and conditions their numbers, and wells their splits."""
    parents = np.unique(wells["parent"])
    cell_names = np.unique(wells["cell"])
    split = splits_of(wells["group"].to_numpy(), "compound", config.splits)
    wells = wells.assign(
        profile_key=keys_of(wells["profile_id"]),
        compound_id=np.searchsorted(parents, wells["parent"]).astype(np.int32),
        cell_id=np.searchsorted(cell_names, wells["cell"]).astype(np.int16),
        condition_id=condition_ids(wells),
        split=split,
        fold=folds_of(wells["group"].to_numpy(), split, config.splits),
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
            "group": groups["group"].first().to_list(),
            "flag": groups["flag"].max().to_list(),
            "n_profiles": groups.size().to_list(),
        }
    ).cast(COMPOUNDS_SCHEMA)
    counts = wells.groupby("cell_id", sort=True).size().to_list()
    cells = {"cell_id": np.arange(len(cell_names)), "name": cell_names.tolist(), "n_profiles": counts}
    return wells, compounds, pa.table(cells).cast(CELLS_SCHEMA)


def _basal_table(paired: Pairing, cells: pa.Table, controls: tuple[np.ndarray, np.ndarray]) -> pa.Table:
    """Return mean and variance of the DMSO wells of each control profile."""
    rows, profiles = controls
    n_genes = profiles.shape[1]
    basal, members = paired.basal, paired.members
    number, wells = members["basal_id"].to_numpy(), profiles[np.searchsorted(rows, members["row"].to_numpy())]
    n_wells = basal["n_wells"].to_numpy()[:, None]
    sums, squares = np.zeros((len(basal), n_genes)), np.zeros((len(basal), n_genes))
    np.add.at(sums, number, wells)
    means = sums / n_wells
    np.add.at(squares, number, (wells - means[number]) ** 2)
    variance = np.divide(squares, n_wells - 1, out=np.full_like(squares, np.nan), where=n_wells > 1)
    numbers = {name: i for i, name in enumerate(cells["name"].to_pylist())}
    columns = [
        pa.array(basal["basal_id"]),
        pa.array(basal["cell"].map(numbers).to_numpy(), pa.int16()),
        pa.array(basal["plate"].to_list(), pa.string()),
        pa.array(basal["time_h"].to_numpy(), pa.float32()),
        pa.array(basal["role"].to_list(), pa.string()),
        pa.array(basal["n_wells"].to_numpy(), pa.int32()),
        list_column(means.astype(np.float32)),
        list_column(variance.astype(np.float32)),
    ]
    return pa.Table.from_arrays(columns, schema=basal_schema(n_genes))


def _counted(release: Release, config: Config, ledger: Ledger, paired: Pairing, wells: pd.DataFrame) -> Counted:
    return {
        "n_profiles": len(wells),
        "n_compounds": int(wells["compound_id"].nunique()),
        "n_cell_lines": int(wells["cell_id"].nunique()),
        "n_conditions": int(wells["condition_id"].nunique()),
        "paper_counts": PAPER_COUNTS,
        "counts": release.counts,
        "cleaning": ledger.steps,
        "pairing_levels": _tally(wells["pairing_level"]),
        "control_profiles": _tally(paired.basal["role"]),
        "wells_without_reserved_control": int((wells["reserved_basal_id"] < 0).sum()),
        "missing_genes": list(release.genes.missing),
        "notes": [
            *release.notes,
            *(f"cell lines kept apart: {' and '.join(same)}" for same in spelt_alike(wells["cell"])),
        ],
        "splits": {
            "definition": "sha256(seed, kind, name): compound by first block of InChIKey, cell line, batch of plates",
            "unit": "group",
            "seed": config.splits.seed,
            "test_fraction": config.splits.test_fraction,
            "valid_fraction": config.splits.valid_fraction,
            "n_folds": config.splits.n_folds,
            "split": _tally(wells["split"]),
            "cell_split": _tally(wells["cell_split"]),
            "plate_split": _tally(wells["plate_split"]),
        },
    }


def _tally(column: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in column.value_counts().items()}


def _gene_list(release: Release) -> list[Gene]:
    pairs = zip(release.genes.entrez_ids.tolist(), release.genes.symbols.tolist(), strict=True)
    return [{"entrez_id": entrez, "symbol": symbol} for entrez, symbol in pairs]
