"""A cache of bounded size that counts its hits."""

import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Lru(Generic[Key, Value]):
    """Keeps the most recently used entries; thread-safe.

    Args:
        size: Entries kept, at least 1.
    """

    def __init__(self, size: int) -> None:
        self._size, self._entries = size, OrderedDict[Key, Value]()
        self.hits = self.misses = 0
        self._using = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def fetch(self, keys: Sequence[Key], make: Callable[[list[Key]], Sequence[Value]]) -> list[Value]:
        """Return the value of each key; missing values are made together, each once.

        Args:
            keys: Keys, which may repeat and may be more than the cache holds.
            make: Returns the values of missing keys, in order.
        """
        wanted = list(dict.fromkeys(keys))
        with self._using:
            found = self._known(wanted)
            new = [key for key in wanted if key not in found]
            self.misses += len(new)
            self.hits += len(keys) - len(new)
            if new:
                found |= dict(zip(new, make(new), strict=True))
            self._keep({key: found[key] for key in wanted})
        return [found[key] for key in keys]

    async def fetch_async(
        self, keys: Sequence[Key], make: Callable[[list[Key]], Awaitable[Sequence[Value]]]
    ) -> list[Value]:
        """Like `fetch` with an awaitable `make`; concurrent calls may make the same value twice."""
        wanted = list(dict.fromkeys(keys))
        with self._using:
            found = self._known(wanted)
        new = [key for key in wanted if key not in found]
        if new:
            found |= dict(zip(new, await make(new), strict=True))
        with self._using:
            self.misses += len(new)
            self.hits += len(keys) - len(new)
            self._keep(found)
        return [found[key] for key in keys]

    def _known(self, keys: Sequence[Key]) -> dict[Key, Value]:
        return {key: self._entries[key] for key in keys if key in self._entries}

    def _keep(self, found: Mapping[Key, Value]) -> None:
        for key, value in found.items():
            self._entries[key] = value
            self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)
