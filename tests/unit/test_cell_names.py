"""Which known cell lines a name can mean."""

import pytest

from ldm_ray.data.cell_names import CellNames

KNOWN = CellNames(["MCF7", "HT-29", "TT", "T-T", "697", "SK-MEL-5"])


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MCF7", ("MCF7",)),
        ("MCF-7", ("MCF7",)),
        (" mcf 7 ", ("MCF7",)),
        ("ht29", ("HT-29",)),
        ("sk_mel.5", ("SK-MEL-5",)),
        ("697", ("697",)),
        ("TT", ("TT",)),
        ("T-T", ("T-T",)),
        ("tt", ("T-T", "TT")),
        ("MCF70", ()),
        ("", ()),
        ("--", ()),
    ],
)
def test_a_cell_line_is_found_by_its_exact_name_first(name: str, meant: tuple[str, ...]) -> None:
    assert KNOWN.candidates(name) == meant
