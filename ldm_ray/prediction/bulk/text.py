"""Text files as people save them: in several encodings, with or without a byte order mark, gzipped or not."""

import codecs
import gzip
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO, cast

from ldm_ray.errors import QueryError
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.signature import GZIP, LONGEST, known_kind
from ldm_ray.storage.store import one_line, split_url
from ldm_ray.storage.text import BYTE_ORDER_MARKS, ENCODING_NAMES, UNMARKED

CHUNK = 1 << 20


@dataclass(frozen=True)
class TextFile:
    """A text file at any URL.

    Attributes:
        url: The file.
        encoding: Python's name of its encoding.
    """

    url: str
    encoding: str
    storage_options: StorageOptions = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Last part of its path."""
        return split_url(self.url)[1]

    @property
    def encoding_name(self) -> str:
        """The encoding as people call it."""
        return ENCODING_NAMES[self.encoding]

    def lines(self) -> Iterator[str]:
        """Yield its lines, with their ends."""
        with one_line(self.url), _opened(self.url, self.storage_options) as stream:
            yield from io.TextIOWrapper(stream, self.encoding, newline="")


def open_text(url: str, storage_options: StorageOptions | None = None) -> TextFile:
    """Find out how a text file is encoded: as its byte order mark says, else UTF-8, else Windows-1252.

    Raises:
        QueryError: If it is no text in one of these.
        StoreError: If it cannot be read.
    """
    options = storage_options or {}
    head = next(_chunks(url, options), b"")
    if what := known_kind(head[:LONGEST]):
        raise QueryError(f"{url} must be text; got {what}")
    encodings = [encoding for mark, encoding in BYTE_ORDER_MARKS.items() if head.startswith(mark)] or UNMARKED
    for encoding in encodings:
        if _is_text(url, encoding, options):
            return TextFile(url, encoding, options)
    known = " or ".join(ENCODING_NAMES[encoding] for encoding in encodings)
    raise QueryError(f"{url} must be text; got bytes that are not {known}; save it as UTF-8")


def _is_text(url: str, encoding: str, options: StorageOptions) -> bool:
    """Tell whether a whole file can be decoded.

    Raises:
        QueryError: If it holds zero characters.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        zeros = any("\0" in decoder.decode(chunk) for chunk in _chunks(url, options))
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    if zeros:
        raise QueryError(
            f"{url} must be text; got zero bytes, as in UTF-16 without a byte order mark; save it as text in UTF-8"
        )
    return True


def _chunks(url: str, options: StorageOptions) -> Iterator[bytes]:
    with one_line(url), _opened(url, options) as stream:
        yield from iter(partial(stream.read, CHUNK), b"")


def _opened(url: str, options: StorageOptions) -> BinaryIO:
    """Open a file and unpack it if it is gzipped, whatever its name."""
    store, name = split_url(url, options)
    fs, root = store.arrow()
    raw = io.BufferedReader(fs.open_input_stream(f"{root}/{name}", compression=None))
    packed = raw.peek(len(GZIP)).startswith(GZIP)
    return cast(BinaryIO, gzip.GzipFile(fileobj=raw) if packed else raw)
