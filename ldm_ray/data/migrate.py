"""Updates a dataset of an older schema version in place, without its source.

Version 1 had no `profile_key`, no row groups by split and no checksums. New files are written beside the old ones and
the manifest is replaced last, so an interrupted migration loses nothing and can be run again.
"""

from collections.abc import Callable

import pyarrow as pa

from ldm_ray.data.manifest import Manifest, read_manifest
from ldm_ray.data.parts import write_wells
from ldm_ray.errors import DataError
from ldm_ray.keys import keys_of
from ldm_ray.layout import EMBEDDINGS, MANIFEST, PROFILES
from ldm_ray.schema import SCHEMA_VERSION, profiles_schema
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.store import Store

OLDEST = 1


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
        DataError: If there is no dataset, or its version is unknown.
    """
    store = Store(root, storage_options or {})
    if not store.exists(MANIFEST):
        raise DataError(f"{root} is not a paired dataset (no {MANIFEST})")
    manifest = read_manifest(store)
    version = manifest.get("schema_version")
    if version == SCHEMA_VERSION:
        return False
    if version != OLDEST:
        raise DataError(f"{root} has schema version {version}; this version of ldm-ray migrates {OLDEST}")
    files, old = [], manifest["files"]
    for number, entry in enumerate(old):
        table = store.read_table(entry["path"])
        files.append(
            write_wells(store, f"{PROFILES}/part-{number:05d}-v{SCHEMA_VERSION}.parquet", _rows(table, manifest))
        )
        on_progress(number + 1, len(old))
    store.remove(EMBEDDINGS)  # keyed by compound number in version 1; `ldm-ray embed` recomputes them
    store.write_json(MANIFEST, manifest | {"schema_version": SCHEMA_VERSION, "plan": "", "files": files})
    for entry in old:
        store.remove(entry["path"])
    return True


def _rows(table: pa.Table, manifest: Manifest) -> pa.Table:
    """Add the key of each row and put the columns in their current order."""
    keyed = table.append_column("profile_key", pa.array(keys_of(table["profile_id"].to_pylist())))
    schema = profiles_schema(len(manifest["genes"]))
    return keyed.select(schema.names).cast(schema)
