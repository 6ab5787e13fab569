"""Errors that a user can cause; each says what, got and wanted in one line."""

from collections.abc import Sequence


class LdmRayError(ValueError):
    """A mistake in the input; the command line prints it in one line and exits with code 2."""


class SettingsError(LdmRayError):
    """A settings key or value that does not exist or does not fit."""


class DataError(LdmRayError):
    """A release, table or dataset that cannot be used as it is."""


class BundleError(LdmRayError):
    """A model bundle that is missing, damaged or made for other genes or another encoder."""


class CheckError(BundleError):
    """A trained part of a model that failed a check; with the setting `checks` at `warn` it is used all the same."""


class QueryError(LdmRayError):
    """A query (cell line, SMILES, dose, time) that cannot be answered.

    Attributes:
        field: The part of the query that is wrong, for instance `dose_um`; empty if it is no single part.
    """

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field

    def at(self, place: str) -> "QueryError":
        """Return the same error with the place of the query before it, if there is one."""
        return QueryError(f"{place}: {self}", field=self.field) if place else self


class ShapeError(LdmRayError):
    """An array or tensor whose shape or dtype is not the documented one."""


class StoreError(LdmRayError):
    """A file or object store that cannot be read or written."""


class NonFiniteError(LdmRayError):
    """A NaN or infinite value where only finite ones are meaningful."""


def listing(names: Sequence[object], most: int) -> str:
    """Join the first `most` names for a message, and count the others: `a, b and 3 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
