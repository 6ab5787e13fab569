"""The paper's cleaning rules (section 2.2), and a count of the wells that each rule removes."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ldm_ray.chem.smiles import parse_compound
from ldm_ray.data.manifest import CleaningStep
from ldm_ray.errors import DataError
from ldm_ray.settings import CleaningSettings

if TYPE_CHECKING:
    import pandas as pd

TREATED = "trt_cp"
DOSE_TOLERANCE = 1.10


@dataclass
class Ledger:
    """Counts what each rule removed, in order."""

    steps: list[CleaningStep] = field(default_factory=list)

    def note(self, rule: str, before: int, after: int, compounds: int | None = None) -> None:
        """Record that a rule left `after` of `before` wells."""
        self.steps.append(
            {
                "rule": rule,
                "wells_before": before,
                "removed": before - after,
                "wells_after": after,
                "compounds_after": compounds,
            }
        )


def clean(wells: "pd.DataFrame", settings: CleaningSettings, ledger: Ledger) -> "pd.DataFrame":
    """Keep the treated wells with a usable compound, dose and time.

    Args:
        wells: `Release.wells`.
        settings: The threshold for rare compounds.
        ledger: Filled with the number of wells that each rule removes.

    Returns:
        The kept wells with columns `canonical`, `parent` and `inchikey` added.

    Raises:
        DataError: If no well is left; names the rule that removed the last one.
    """
    treated = wells[wells["kind"] == TREATED]
    ledger.note("treated wells (pert_type trt_cp)", len(wells), len(treated), treated["source_id"].nunique())
    usable = treated[treated["dose_um"].notna() & treated["time_h"].notna()]
    ledger.note("dose and time known and above 0", len(treated), len(usable), usable["source_id"].nunique())

    parsed = {text: parse_compound(text) for text in usable["smiles"].unique()}
    known = usable[usable["smiles"].map(lambda text: parsed[text] is not None)]
    columns = {
        name: known["smiles"].map({text: getattr(c, attribute) for text, c in parsed.items() if c is not None})
        for name, attribute in (
            ("canonical", "smiles"),
            ("parent", "parent_smiles"),
            ("inchikey", "inchikey"),
        )
    }
    known = known.assign(**columns)
    ledger.note("SMILES that RDKit parses (ii)", len(usable), len(known), known["parent"].nunique())

    profiles = known["parent"].map(known["parent"].value_counts())
    kept = known[profiles >= settings.min_profiles_per_compound]
    rule = f"parents with at least {settings.min_profiles_per_compound} profiles (i)"
    ledger.note(rule, len(known), len(kept), kept["parent"].nunique())
    require_wells(kept, ledger)
    return kept


def require_wells(wells: "pd.DataFrame", ledger: Ledger) -> None:
    """Raise if the rules have removed every well.

    Raises:
        DataError: If no well is left; names the rule that removed the last one.
    """
    if wells.empty:
        last = next(step for step in ledger.steps if step["wells_after"] == 0)
        raise DataError(
            f"no treated well is left: the rule '{last['rule']}' removed the last {last['removed']}"
            " (cleaning.min_profiles_per_compound=1 suits small releases)"
        )


def condition_ids(wells: "pd.DataFrame") -> np.ndarray:
    """Number the conditions (cell line, parent, dose, time), shape (wells,), int32.

    Doses of one parent within 10% of the smallest in their group count as one: real files write both 1.1 and 1.11.
    """
    frame = wells[["cell", "parent", "time_h", "dose_um"]].reset_index(drop=True)
    doses = frame[["parent", "dose_um"]].drop_duplicates().sort_values(["parent", "dose_um"])
    first: list[float] = []
    parent, start = "", 0.0
    for row in doses.itertuples(index=False):
        if row.parent != parent or row.dose_um > start * DOSE_TOLERANCE:
            parent, start = str(row.parent), float(row.dose_um)
        first.append(start)
    doses = doses.assign(dose_group=first)
    frame = frame.merge(doses, on=["parent", "dose_um"], how="left", validate="many_to_one")
    groups = frame.groupby(["cell", "parent", "dose_group", "time_h"], sort=True, observed=True)
    return np.asarray(groups.ngroup(), dtype=np.int32)
