"""Every compound of a list on every cell line, at every dose and time."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ldm_ray.prediction.bulk.compounds import CompoundList
from ldm_ray.prediction.bulk.conditions import conditions_schema


@dataclass(frozen=True)
class Grid:
    """Every compound on every cell line at every dose and time; the last varies fastest.

    Attributes:
        compounds: Compounds.
        cells: Cell lines.
        dose_um: Doses, micromolar.
        time_h: Times, hours.
    """

    compounds: CompoundList
    cells: Sequence[str]
    dose_um: Sequence[float]
    time_h: Sequence[float]

    def __len__(self) -> int:
        return len(self.compounds.smiles) * len(self.cells) * len(self.dose_um) * len(self.time_h)

    @property
    def fingerprint(self) -> str:
        """Identify a grid by its contents."""
        axes = [self.compounds.smiles, self.cells, self.dose_um, self.time_h]
        named = [] if self.compounds.names is None else [self.compounds.names]
        values = json.dumps([list(part) for part in (*axes, *named)])
        return f"grid of {len(self)}, sha256 {hashlib.sha256(values.encode()).hexdigest()[:16]}"

    def tables(self, rows: int) -> Iterator[pa.Table]:
        """Yield the conditions in tables of at most `rows` rows."""
        listed, numbers = (
            self.compounds,
            [[str(float(value)) for value in values] for values in (self.dose_um, self.time_h)],
        )
        named = listed.names is not None
        schema = conditions_schema(f"compound of {listed.source}", named=named, lined=True)
        compounds = zip(listed.smiles, listed.names or [""] * len(listed.smiles), listed.lines, strict=True)
        conditions = itertools.product(compounds, self.cells, *numbers)
        while chunk := list(itertools.islice(conditions, rows)):
            described, *others = zip(*chunk, strict=True)
            smiles, names, lines = zip(*described, strict=True)
            columns = [smiles, *others, *([names] if named else []), lines]
            yield pa.table([pa.array(column, own.type) for column, own in zip(columns, schema, strict=True)], schema)
