"""The files of a release at any URL, opened for ranged reads and never downloaded first."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py

from ldm_ray.data.manifest import SourceIdentity
from ldm_ray.errors import LdmRayError, StoreError
from ldm_ray.storage.filesystem import StorageOptions, is_local, open_filesystem
from ldm_ray.storage.store import one_line

REMOTE_BLOCK = 8 * 1024 * 1024
BLOCKS_KEPT = 12


@dataclass(frozen=True)
class SourceFile:
    """One file of a release at a path or URL."""

    url: str
    storage_options: StorageOptions = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """Last part of its path."""
        return self.url.rstrip("/").rpartition("/")[2]

    def beside(self, name: str) -> "SourceFile":
        """Return another file in the same folder."""
        folder, slash, _ = self.url.rpartition("/")
        return SourceFile(f"{folder}{slash}{name}", self.storage_options)

    def exists(self) -> bool:
        """Return whether the file exists."""
        with one_line(self.url):
            fs, path = open_filesystem(self.url, self.storage_options)
            return bool(fs.isfile(path))

    def read_bytes(self) -> bytes:
        """Read the whole file; meant for tables, not for matrices."""
        with one_line(self.url):
            fs, path = open_filesystem(self.url, self.storage_options)
            return bytes(fs.cat_file(path))

    def head(self, n_bytes: int) -> bytes:
        """Read its first bytes."""
        with one_line(self.url):
            fs, path = open_filesystem(self.url, self.storage_options)
            return bytes(fs.cat_file(path, start=0, end=n_bytes))

    def identity(self) -> SourceIdentity:
        """Return name, size and checksum: the sha256 of a local file, the ETag of an object (without a download)."""
        with one_line(self.url):
            fs, path = open_filesystem(self.url, self.storage_options)
            info = fs.info(path)
            known: SourceIdentity = {"name": self.name, "bytes": int(info["size"])}
            if is_local(fs):
                with Path(path).open("rb") as file:
                    return known | {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
            tag = info.get("ETag") or info.get("etag") or info.get("md5Hash") or info.get("LastModified")
            return known | {"etag": str(tag).strip('"')}

    @contextmanager
    def hdf5(self) -> Iterator[h5py.File]:
        """Open it as HDF5; a remote file is read by ranges.

        Raises:
            StoreError: If it is missing, truncated or damaged.
        """
        fs, path = open_filesystem(self.url, self.storage_options)
        try:
            if is_local(fs):
                with h5py.File(path, "r") as file:
                    yield file
                return
            cache = {"cache_type": "background", "cache_options": {"maxblocks": BLOCKS_KEPT}}
            with fs.open(path, "rb", block_size=REMOTE_BLOCK, **cache) as raw, h5py.File(raw, "r") as file:
                yield file
        except LdmRayError:
            raise
        except FileNotFoundError:
            raise StoreError(f"{self.url} does not exist") from None
        except OSError as error:
            what = "is truncated or damaged" if is_local(fs) else "cannot be read"
            raise StoreError(f"{self.url} {what}: {' '.join(str(error).split())}") from None

    def buffer(self) -> io.BytesIO:
        """Return the content as a file in memory."""
        return io.BytesIO(self.read_bytes())


AnyFile = SourceFile | Path | str
"""A file of a release; a path or URL means a file without storage options."""


def source_file(file: AnyFile, storage_options: StorageOptions | None = None) -> SourceFile:
    """Return the `SourceFile` of a path or URL."""
    return file if isinstance(file, SourceFile) else SourceFile(str(file), storage_options or {})
