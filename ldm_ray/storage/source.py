"""Files that people give us, at any URL: opened for ranged reads and never downloaded first."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import fsspec
import h5py

from ldm_ray.errors import LdmRayError, StoreError
from ldm_ray.storage.filesystem import StorageOptions, is_local, open_filesystem
from ldm_ray.storage.store import one_line

REMOTE_BLOCK = 8 * 1024 * 1024
BLOCKS_KEPT = 12


class SourceIdentity(TypedDict):
    """A file: a local file has a checksum, an object in a store its ETag."""

    name: str
    bytes: int
    sha256: NotRequired[str]
    etag: NotRequired[str]


@dataclass(frozen=True)
class SourceFile:
    """One file at a path or URL."""

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
        folder, slash, _ = self.url.rstrip("/").rpartition("/")
        return SourceFile(f"{folder}{slash}{name}", self.storage_options)

    def exists(self) -> bool:
        """Return whether the file exists."""
        with one_line(self.url):
            fs, path = open_filesystem(self.url, self.storage_options)
            return bool(fs.isfile(path))

    def is_folder(self) -> bool:
        """Return whether it is a folder, as a zarr store is."""
        with one_line(self.url):
            fs, path = open_filesystem(self.url, self.storage_options)
            return bool(fs.isdir(path))

    def zarr(self) -> Any:
        """Open a folder as a zarr group.

        Raises:
            StoreError: If it is not one.
        """
        import zarr

        fs, path = open_filesystem(self.url, self.storage_options)
        try:
            if is_local(fs):
                return zarr.open_group(path, mode="r")
            protocol = fsspec.utils.get_protocol(self.url)
            options = dict(self.storage_options.get(protocol, {}))
            store = zarr.storage.FsspecStore.from_url(self.url, options, read_only=True)
            return zarr.open_group(store, mode="r")
        except (OSError, KeyError, ValueError) as error:
            said = " ".join(str(error).split())[:120]
            raise StoreError(f"{self.url} is a folder, but not a zarr store: {said}") from None

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
            if fs.isdir(path):
                return _folder_identity(self.name, fs, path)
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


def _folder_identity(name: str, fs: Any, path: str) -> SourceIdentity:
    """Sum up the names, sizes and checksums of a folder's files."""
    digest, total = hashlib.sha256(), 0
    for file, info in sorted(fs.find(path, detail=True).items()):
        total += int(info["size"])
        tag = info.get("ETag") or info.get("etag") or info.get("md5Hash") or ""
        if is_local(fs):
            with Path(file).open("rb") as opened:
                tag = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(f"{file.removeprefix(path)}\t{info['size']}\t{tag}\n".encode())
    return {"name": name, "bytes": total, "sha256": digest.hexdigest()}


AnyFile = SourceFile | Path | str
"""A file of a release; a path or URL means a file without storage options."""


def source_file(file: AnyFile, storage_options: StorageOptions | None = None) -> SourceFile:
    """Return the `SourceFile` of a path or URL."""
    return file if isinstance(file, SourceFile) else SourceFile(str(file), storage_options or {})
