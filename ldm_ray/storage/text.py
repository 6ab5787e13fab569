"""Files of text as people save them: in several encodings, with or without a byte order mark, gzipped or not."""

import gzip
import zlib

from ldm_ray.errors import DataError
from ldm_ray.storage.signature import GZIP, LONGEST, known_kind

BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}

UNMARKED = ("utf-8", "cp1252")
"""Encodings tried in turn where no byte order mark says one."""

ENCODING_NAMES = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8", "utf-16": "UTF-16", "cp1252": "Windows-1252 (Latin-1)"}
"""What people call them."""


def unpack(content: bytes, path: str) -> bytes:
    """Return a file's content, unpacked if it is gzipped.

    Raises:
        DataError: If it is damaged or truncated.
    """
    if not content.startswith(GZIP):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        raise DataError(f"{path} is a damaged or truncated gzip file") from None


def decode(content: bytes, path: str) -> tuple[str, str]:
    """Return a text and what its encoding is called: UTF-8, UTF-16 with a byte order mark, else Windows-1252.

    Raises:
        DataError: If it is none of them.
    """
    if what := known_kind(content[:LONGEST]):
        raise DataError(f"{path} must be a table of text; got {what}")
    marked = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), None)
    for encoding in [marked] if marked else UNMARKED:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text, ENCODING_NAMES[encoding]
    raise DataError(f"{path} must be text in UTF-8, UTF-16 (with a byte order mark) or Windows-1252; save it as UTF-8")
