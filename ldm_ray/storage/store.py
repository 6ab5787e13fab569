"""Folders at any URL that fsspec understands: local paths, s3://, gs://, az://, hf://.

Credentials, profile, region and endpoint come from the usual places of each service (for S3, the `AWS_*` variables and
`~/.aws`), or from `storage_options`, fsspec's arguments by protocol.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ldm_ray.errors import DataError, LdmRayError, StoreError
from ldm_ray.storage.filesystem import ATTEMPTS, StorageOptions, arrow_filesystem, is_local, open_filesystem


@dataclass(frozen=True)
class Store:
    """A folder at a URL; all names given to it are relative to the folder."""

    url: str
    storage_options: StorageOptions = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.url:
            raise StoreError("a folder must have a path or URL; got an empty string")

    @property
    def _fs_and_root(self) -> tuple[Any, str]:
        with one_line(self.url):
            fs, root = open_filesystem(self.url, self.storage_options)
        return fs, root.rstrip("/")

    def path(self, name: str) -> str:
        """Return the full URL of a file in this folder."""
        return f"{self.url.rstrip('/')}/{name}" if name else self.url

    def arrow(self, attempts: int = ATTEMPTS) -> tuple[pafs.FileSystem, str]:
        """Return pyarrow's view of the file system, and the folder's path on it.

        Args:
            attempts: How often to try a request.
        """
        fs, root = self._fs_and_root
        with one_line(self.url):
            return arrow_filesystem(fs, root, attempts), root

    def exists(self, name: str = "") -> bool:
        """Tell whether a file or folder exists."""
        fs, root = self._fs_and_root
        with one_line(self.path(name)):
            fs.invalidate_cache()
            return bool(fs.exists(f"{root}/{name}" if name else root))

    def names(self, folder: str = "") -> list[str]:
        """Return the sorted names in a folder; an empty list if it does not exist."""
        fs, root = self._fs_and_root
        with one_line(self.path(folder)):
            fs.invalidate_cache()
            if not fs.exists(f"{root}/{folder}"):
                return []
            return sorted(str(path).rsplit("/", 1)[-1] for path in fs.ls(f"{root}/{folder}", detail=False))

    def files(self) -> dict[str, datetime | None]:
        """Return the sorted paths of all files in this folder and below it, and when each was written, if known."""
        fs, root = self._fs_and_root
        with one_line(self.url):
            fs.invalidate_cache()
            found = fs.find(root, detail=True)
        return {str(path)[len(root) + 1 :]: written_at(found[path]) for path in sorted(found)}

    def find(self, name: str) -> list[str]:
        """Return the sorted paths of all files with a name, in this folder and below it."""
        return [path for path in self.files() if path == name or path.endswith(f"/{name}")]

    def remove(self, name: str) -> None:
        """Remove a file or folder, if it exists."""
        fs, root = self._fs_and_root
        with one_line(self.path(name)):
            fs.invalidate_cache()
            if fs.exists(f"{root}/{name}"):
                fs.rm(f"{root}/{name}", recursive=True)

    def read_bytes(self, name: str) -> bytes:
        """Read a whole file."""
        fs, root = self._fs_and_root
        with one_line(self.path(name)):
            return bytes(fs.cat_file(f"{root}/{name}"))

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file such that readers see the old or the new content, never half of it."""
        fs, root = self._fs_and_root
        path = f"{root}/{name}"
        with one_line(self.path(name)):
            fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            if not is_local(fs):
                fs.pipe_file(path, content)
                return
            part = path + ".tmp"
            try:
                fs.pipe_file(part, content)
                os.replace(part, path)
            except OSError:
                fs.rm(part) if fs.exists(part) else None
                raise

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON object."""
        try:
            values = json.loads(self.read_bytes(name))
        except ValueError as error:
            if isinstance(error, StoreError):
                raise
            raise DataError(f"{self.path(name)} is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise DataError(f"{self.path(name)} must hold a JSON object; got {type(values).__name__}")
        return values

    def write_json(self, name: str, values: Any) -> None:
        """Write a JSON document; NaN and infinity are refused."""
        self.write_bytes(name, (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read a Parquet file."""
        fs, root = self.arrow()
        with one_line(self.path(name)):
            return pq.read_table(f"{root}/{name}", columns=columns, filesystem=fs, partitioning=None)

    def read_tables(self, names: list[str], columns: list[str], keep: pc.Expression | None = None) -> pa.Table:
        """Read some columns of several Parquet files as one table, with the rows that `keep` selects."""
        import pyarrow.dataset as pads  # imports pandas

        fs, root = self.arrow()
        with one_line(self.url):
            data = pads.dataset([f"{root}/{name}" for name in names], format="parquet", filesystem=fs)
            return data.to_table(columns=columns, filter=keep)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file, whole or not at all; see `write_bytes`."""
        self.write_bytes(name, parquet_bytes([table]))


def parquet_bytes(groups: list[pa.Table]) -> bytes:
    """Return a Parquet file with one row group per table; at least one table.

    Floats are split into byte streams before compression, which makes files a quarter smaller and as fast to read.
    """
    sink = pa.BufferOutputStream()
    schema = groups[0].schema
    text = [field.name for field in schema if pa.types.is_string(field.type)]
    floats = [f"{field.name}.list.element" for field in schema if pa.types.is_fixed_size_list(field.type)]
    writer = pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=text, use_byte_stream_split=floats)
    with writer:
        for table in groups:
            writer.write_table(table, row_group_size=max(1, len(table)))
    return bytes(sink.getvalue())


def split_url(url: str, storage_options: StorageOptions | None = None) -> tuple[Store, str]:
    """Split the URL of a file into its folder and its name."""
    folder, _, name = url.rstrip("/").rpartition("/")
    return Store(folder or ("/" if url.startswith("/") else "."), storage_options or {}), name


def written_at(entry: Mapping[str, Any]) -> datetime | None:
    """Return when a file was last written, from fsspec's description of it; None if it does not say."""
    for key in ("mtime", "LastModified", "last_modified", "updated", "created"):  # local, s3, az, gs, memory
        value = entry.get(key)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
    return None


def list_column(values: np.ndarray) -> pa.FixedSizeListArray:
    """Return a float32 matrix as an Arrow column of fixed-size lists, without copying.

    Args:
        values: Shape (rows, width), float32, C-contiguous.
    """
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def matrix(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return a column of fixed-size lists as a float32 matrix, shape (rows, width)."""
    combined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(combined, pa.ChunkedArray):
        combined = pa.concat_arrays(combined.chunks)
    width = combined.type.list_size
    return np.asarray(combined.flatten(), dtype=np.float32).reshape(-1, width)


@contextmanager
def one_line(url: str) -> Iterator[None]:
    """Turn the many errors of file systems and Parquet into one line with the URL."""
    try:
        yield
    except LdmRayError:
        raise
    except FileNotFoundError:
        raise StoreError(f"{url} does not exist") from None
    except ImportError as error:
        raise StoreError(f"{url} needs a package that is not installed: {' '.join(str(error).split())}") from None
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{url}: {' '.join(str(error).split())}") from error
    except Exception as error:  # each client has its own errors
        raise StoreError(f"{url} cannot be opened: {' '.join(str(error).split())}") from error
