"""Tables in text files: separated by commas, semicolons or tabs; columns in any order and case."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ldm_ray.errors import QueryError
from ldm_ray.prediction.bulk.text import TextFile

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


@dataclass(frozen=True)
class TextTable:
    """A table in a text file.

    Attributes:
        text: The file.
        separator: What separates its cells.
        columns: Where the wanted columns are, by their names in lower case.
    """

    text: TextFile
    separator: str
    columns: dict[str, int]

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each row's first line, counted from 1, and its cells in the wanted columns, without spaces around them.

        Blank lines are skipped, and so are rows of empty cells at the end.

        Raises:
            QueryError: If quotes do not match, or a row has more cells than there are columns.
        """
        records = _records(self.text, self.separator)
        _, header = next(records)
        wanted, blank = list(self.columns.values()), list[int]()
        for line, record in records:
            if len(record) != len(header):
                record.extend([""] * (len(header) - len(record)))
                self._check_width(line, record, len(header))
            cells = [record[place].strip() for place in wanted]
            if not any(cells) and not any(map(str.strip, record)):
                blank.append(line)
                continue
            if blank:
                yield from ((number, [""] * len(wanted)) for number in blank)
                blank = []
            yield line, cells

    def _check_width(self, line: int, record: list[str], width: int) -> None:
        """Refuse a row with more cells than there are columns: an unquoted decimal comma moves all cells after it."""
        if any(map(str.strip, record[width:])):
            raise QueryError(
                f"{self.text.name}, line {line}: {len(record)} cells, but {width} columns;"
                f" put cells that hold {SEPARATORS[self.separator]} in quotes"
            )


def open_text_table(text: TextFile, needed: Sequence[str], optional: Sequence[str] = ()) -> TextTable:
    """Find out how the cells of a table are separated, and where its columns are.

    Raises:
        QueryError: If it lacks a needed column, or has one twice.
        StoreError: If it cannot be read.
    """
    wanted = (*needed, *optional)
    headers = {separator: _header(text, separator) for separator in SEPARATORS}

    def found(separator: str) -> tuple[int, int]:
        names = [plain(name) for name in headers[separator]]
        return sum(name in names for name in wanted), len(names)

    separator = max(SEPARATORS, key=found)
    read_as = f"read as {text.encoding_name}, separated by {SEPARATORS[separator]}, "
    return TextTable(text, separator, find_columns(text.url, headers[separator], needed, optional, read_as))


def find_columns(
    url: str, header: Sequence[str], needed: Sequence[str], optional: Sequence[str], read_as: str = ""
) -> dict[str, int]:
    """Return where columns are in a header, by name; case and spaces around names do not matter.

    Args:
        url: The table, for errors.
        header: Its column names.
        needed: Columns that must be there, in lower case.
        optional: Columns that may be there.
        read_as: How the header was read, for errors.

    Raises:
        QueryError: If it lacks a needed column, or has one twice.
    """
    names = [plain(name) for name in header]
    if missing := [repr(name) for name in needed if name not in names]:
        shown = ", ".join(repr(name[:40]) for name in header[:12]) or "no columns"
        raise QueryError(
            f"{url} must have the columns {', '.join(needed)}; it lacks {', '.join(missing)};"
            f" {read_as}it has {shown}{', ...' * (len(header) > 12)}"
        )
    wanted = [name for name in (*needed, *optional) if name in names]
    for name in wanted:
        if (n := names.count(name)) > 1:
            raise QueryError(f"{url} must have one column {name!r}; it has {n}")
    return {name: names.index(name) for name in wanted}


def plain(name: str) -> str:
    """Return a column's name as it is compared: without spaces around it, in lower case."""
    return name.strip().lower()


def _header(text: TextFile, separator: str) -> list[str]:
    line = next((line for line in text.lines() if line.strip()), "")
    return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])


def _records(text: TextFile, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line and the cells of each record, the header too, without blank lines."""
    reader = csv.reader(text.lines(), delimiter=separator, skipinitialspace=True, strict=True)
    line = 1
    try:
        for record in reader:
            if len(record) > 1 or any(map(str.strip, record)):
                yield line, record
            line = reader.line_num + 1
    except csv.Error as error:
        raise QueryError(f"{text.name}, line {line}: cells cannot be told apart ({error}); check the quotes") from None
