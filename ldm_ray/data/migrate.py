"""Updates a dataset of an older schema version in place, without its source.

Version 1 had no `profile_key`, no row groups by split and no checksums. Versions 1 and 2 had no groups of compounds:
the parent structure was the largest part, even if that was a counter-ion, and each parent had its own side of the
split. Wells that became one compound by mistake cannot be told apart again, and wells moved to another side would leak
into trained models. So a dataset with such compounds is refused; another one keeps its wells and its splits.
Version 3 had no `batch`, which is added, and no `variance` of controls, which stays unknown without the release.

New files are written beside the old ones and the manifest is replaced last, so an interrupted migration loses nothing
and can be run again.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from ldm_ray.chem.smiles import parse_compound
from ldm_ray.data.groups import straddling
from ldm_ray.data.manifest import FileEntry, Manifest, by_of, read_manifest
from ldm_ray.data.pairing import batch_of
from ldm_ray.data.parts import write_wells
from ldm_ray.errors import DataError
from ldm_ray.keys import keys_of
from ldm_ray.layout import BASAL, COMPOUNDS, EMBEDDINGS, MANIFEST, PROFILES
from ldm_ray.schema import COMPOUNDS_SCHEMA, SCHEMA_VERSION, basal_schema, profiles_schema
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.store import Store, list_column

OLDER = (1, 2, 3)
AGAIN = "run `ldm-ray prepare` on the release again"


def migrate(
    root: str,
    storage_options: StorageOptions | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> bool:
    """Migrate the dataset under a root; return False if it already has the current version.

    Args:
        root: Folder URL.
        storage_options: fsspec's arguments by protocol.
        on_progress: Called with files written and in total.

    Raises:
        DataError: If there is no dataset, its version is unknown, or its compounds have to be read from the release.
    """
    store = Store(root, storage_options or {})
    if not store.exists(MANIFEST):
        raise DataError(f"{root} is not a paired dataset (no {MANIFEST})")
    manifest = read_manifest(store)
    version = manifest.get("schema_version")
    if version == SCHEMA_VERSION:
        return False
    if version not in OLDER:
        raise DataError(
            f"{root} has schema version {version}; this version of ldm-ray migrates {OLDER[0]} to {OLDER[-1]}"
        )
    if version < 3:
        compounds = _grouped(store, root)
        _require_one_side(store, compounds, manifest, root)
        store.write_table(COMPOUNDS, compounds)
    old = manifest["files"]
    files = _new_files(store, manifest, on_progress)
    store.write_table(BASAL, _with_variance(store.read_table(BASAL), len(manifest["genes"])))
    if version == 1:
        store.remove(EMBEDDINGS)  # keyed by compound number; `ldm-ray embed` recomputes them
    store.write_json(MANIFEST, manifest | {"schema_version": SCHEMA_VERSION, "plan": "", "files": files})
    for entry in old:
        if entry not in files:
            store.remove(entry["path"])
    return True


def _grouped(store: Store, root: str) -> pa.Table:
    """Return the compound table with groups and flags.

    Raises:
        DataError: If a compound has another parent structure now.
    """
    old = store.read_table(COMPOUNDS)
    found = [parse_compound(text) for text in old["smiles"].to_pylist()]
    kept: list[tuple[str, str]] = []
    for names, parent, compound in zip(old["names"].to_pylist(), old["parent_smiles"].to_pylist(), found, strict=True):
        if compound is None or compound.parent_smiles != parent or not compound.is_one_drug:
            now = "not one drug" if compound is None or not compound.is_one_drug else compound.parent_smiles
            name = ", ".join(names[:3]) or parent
            raise DataError(f"{root}: the structure of {name} was read as {parent} and is now {now}: {AGAIN}")
        kept.append((compound.group, compound.flag))
    group, flag = zip(*kept, strict=True)
    columns = {name: old[name] for name in old.column_names} | {"group": pa.array(group), "flag": pa.array(flag)}
    return pa.table(columns).select(COMPOUNDS_SCHEMA.names).cast(COMPOUNDS_SCHEMA)


def _require_one_side(store: Store, compounds: pa.Table, manifest: Manifest, root: str) -> None:
    """Refuse groups of compounds that are on two sides.

    Raises:
        DataError: Names one of them.
    """
    paths = [entry["path"] for entry in manifest["files"]]
    wells = store.read_tables(paths, ["compound_id", "split", "fold"]).to_pandas()
    group = compounds["group"].to_numpy()[wells["compound_id"]]
    for split, groups in straddling(wells.assign(group=group), by_of(manifest["splits"])).items():
        if groups:
            rows = compounds.filter(pa.array([name == groups[0] for name in compounds["group"].to_pylist()]))
            raise DataError(
                f"{root}: spellings of one drug are on two sides of {split}, for example"
                f" {' and '.join(rows['parent_smiles'].to_pylist())} ({len(groups)} in all): {AGAIN}"
            )


def _with_variance(basal: pa.Table, n_genes: int) -> pa.Table:
    """Return the control profiles with a variance, which is not known."""
    unknown = list_column(np.full((len(basal), n_genes), np.nan, np.float32))
    columns = {name: basal[name] for name in basal.column_names} | {"variance": unknown}
    schema = basal_schema(n_genes)
    return pa.table(columns).select(schema.names).cast(schema)


def _new_files(store: Store, manifest: Manifest, on_progress: Callable[[int, int], None]) -> list[FileEntry]:
    """Write the wells again, with keys, batches, and row groups by split."""
    files = []
    for number, entry in enumerate(manifest["files"]):
        path = f"{PROFILES}/part-{number:05d}-v{SCHEMA_VERSION}.parquet"
        files.append(write_wells(store, path, _rows(store.read_table(entry["path"]), manifest)))
        on_progress(number + 1, len(manifest["files"]))
    return files


def _rows(table: pa.Table, manifest: Manifest) -> pa.Table:
    """Add the columns that older versions lack, and put all in their current order."""
    columns = {name: table[name] for name in table.column_names}
    columns |= {
        "profile_key": pa.array(keys_of(table["profile_id"].to_pylist())),
        "batch": pa.array(batch_of(table["plate"].to_pandas())),
    }
    schema = profiles_schema(len(manifest["genes"]))
    return pa.table(columns).select(schema.names).cast(schema)
