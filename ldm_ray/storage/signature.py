"""What a file is, by its first bytes: for messages about files that are not what they should be."""

HDF5 = b"\x89HDF\r\n\x1a\n"
GZIP = b"\x1f\x8b"
ZIP = b"PK\x03\x04"
SIGNATURES = (
    (GZIP, "a gzipped file: unpack it with gunzip first"),
    (ZIP, "a zip archive (or an Excel workbook): unpack it, or save it as text, first"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook in the old format (.xls): save it as text"),
    (b"BZh", "a bzip2 file: unpack it with bunzip2 first"),
    (b"\xfd7zXZ", "an xz file: unpack it with unxz first"),
    (HDF5, "an HDF5 file"),
    (b"PAR1", "a Parquet file"),
    (b"\x80\x04", "a Python pickle, which is never read"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with git lfs pull"),
    (b"<!DOCTYPE", "a web page: the download failed"),
    (b"<html", "a web page: the download failed"),
    (b"#1.", "GCT text"),
)
LONGEST = 24


def known_kind(head: bytes) -> str:
    """Return what a file is, from at least its first `LONGEST` bytes; empty if they are no known signature."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((what for mark, what in SIGNATURES if start[: len(mark)].lower() == mark.lower()), "")


def what_it_is(head: bytes) -> str:
    """Return what a file is, from at least its first `LONGEST` bytes; these bytes if nothing is known of them."""
    return known_kind(head) or (f"a file that begins with {head[:8]!r}" if head else "an empty file")
