"""Cell lines as people write them: `MCF-7` and `mcf7` are MCF7, unless several known names differ only in this."""

from collections.abc import Iterable


def folded(name: str) -> str:
    """Return a name's letters and digits without case: `SK-MEL-5` becomes `skmel5`."""
    return "".join(character for character in name.casefold() if character.isalnum())


def spelt_alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the names that differ only in case and punctuation, sorted; each group once."""
    return [group for group in _by_folded(names).values() if len(group) > 1]


def _by_folded(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, tuple[str, ...]] = {}
    for name in sorted(set(names)):
        groups[folded(name)] = (*groups.get(folded(name), ()), name)
    return groups


class CellNames:
    """Finds cell lines among known names.

    Args:
        known: Names of cell lines; names that differ only in case or punctuation (TT and T-T) are different lines.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self._exact = frozenset(known)
        self._folded = _by_folded(self._exact)

    def candidates(self, name: str) -> tuple[str, ...]:
        """Return the known names that a name can mean.

        Returns:
            Only the name itself if it is known; else all known names that equal it without case and punctuation: none
            if it is unknown, and several, sorted, if it is ambiguous.
        """
        if name in self._exact:
            return (name,)
        plain = folded(name)
        return self._folded.get(plain, ()) if plain else ()
