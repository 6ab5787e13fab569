"""Five hundred releases spoilt in one way each: refused in one line, or read with no value changed."""

from collections import Counter
from pathlib import Path

import pytest

from tests.unit.test_layouts import outcome

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:Observation names are not unique", "ignore:Writing zarr v2 data"),
]
N = 500


def test_five_hundred_spoilt_releases(tmp_path: Path) -> None:
    said = [outcome(1000 + number, tmp_path / str(number)) for number in range(N)]
    ends = Counter("read" if text.rsplit("-> ", 1)[1].endswith(" wells") else "refused" for text in said)
    print("\n".join(said), ends)  # the record of the drill
    assert min(ends.values()) > N / 10
