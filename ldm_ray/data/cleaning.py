"""The paper's cleaning rules (section 2.2), and a count of the wells that each rule removes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ldm_ray.chem.smiles import parse_compound
from ldm_ray.data.amounts import check_amounts
from ldm_ray.data.manifest import CleaningStep
from ldm_ray.data.releases.kinds import TREATED, control_names, dmso_controls
from ldm_ray.data_settings import CleaningSettings
from ldm_ray.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

DOSE_TOLERANCE = 1.10
EXAMPLES = 3


@dataclass
class Ledger:
    """Counts what each rule removed, in order, with the first few reasons."""

    steps: list[CleaningStep] = field(default_factory=list)

    def note(
        self, rule: str, before: int, after: int, compounds: int | None = None, examples: Sequence[str] = ()
    ) -> None:
        """Record that a rule left `after` of `before` wells; `examples` say what was removed."""
        self.steps.append(
            {
                "rule": rule,
                "wells_before": before,
                "removed": before - after,
                "wells_after": after,
                "compounds_after": compounds,
                "examples": list(examples),
            }
        )


def clean(wells: "pd.DataFrame", settings: CleaningSettings, ledger: Ledger) -> "pd.DataFrame":
    """Keep the treated wells with a usable compound, dose and time.

    Args:
        wells: `Release.wells`.
        settings: The threshold for rare compounds, and which doses and times are believed.
        ledger: Filled with the number of wells that each rule removes.

    Returns:
        The kept wells with columns `canonical`, `parent`, `inchikey`, `group` and `flag` added.

    Raises:
        DataError: If no well is left, naming the rule that removed the last one; or if doses or times cannot be read
            or are not to be believed.
    """
    is_treated = wells["kind"] == TREATED
    treated = wells[is_treated]
    others = counted(wells.loc[~is_treated, "kind"])
    ledger.note("treated wells (pert_type trt_cp)", len(wells), len(treated), treated["source_id"].nunique(), others)
    require_wells(treated, ledger, wells)
    check_amounts(treated, wells[dmso_controls(wells)], settings)
    usable = treated[treated["dose_um"].notna() & treated["time_h"].notna()]
    dropped = treated.drop(usable.index)
    why = counted("dose " + dropped.loc[dropped["dose_um"].isna(), "dose_problem"])
    why += counted("time " + dropped.loc[dropped["time_h"].isna(), "time_problem"])
    ledger.note("dose and time known and above 0", len(treated), len(usable), usable["source_id"].nunique(), why)
    require_wells(usable, ledger, wells)

    parsed = {text: parse_compound(text) for text in usable["smiles"].unique()}
    known = usable[usable["smiles"].map(lambda text: parsed[text] is not None)]
    columns = {
        name: known["smiles"].map({text: getattr(c, attribute) for text, c in parsed.items() if c is not None})
        for name, attribute in (
            ("canonical", "smiles"),
            ("parent", "parent_smiles"),
            ("inchikey", "inchikey"),
            ("group", "group"),
            ("flag", "flag"),
        )
    }
    known = known.assign(**columns)
    unparsed = usable.drop(known.index)
    why = counted(unparsed["source_id"] + " " + unparsed["smiles"].map(repr))
    ledger.note("SMILES that RDKit parses (ii)", len(usable), len(known), known["parent"].nunique(), why)
    require_wells(known, ledger, wells)
    whole = known[known["flag"].isin(["", *settings.keep_flagged])]
    flagged = known.drop(whole.index)
    why = counted(flagged["name"] + " (" + flagged["flag"] + ")")
    ledger.note(flag_rule(settings), len(known), len(whole), whole["parent"].nunique(), why)
    require_wells(whole, ledger, wells)

    profiles = whole["group"].map(whole["group"].value_counts())
    kept = whole[profiles >= settings.min_profiles_per_compound]
    rule = f"compounds with at least {settings.min_profiles_per_compound} profiles in all spellings (i)"
    rare = counted(whole.drop(kept.index)["name"])
    ledger.note(rule, len(whole), len(kept), kept["parent"].nunique(), rare)
    require_wells(kept, ledger, wells)
    return kept


def flag_rule(settings: CleaningSettings) -> str:
    """Say which flagged compounds (`ldm_ray.chem.parent`) are dropped."""
    names = {"metal": "no metal", "mixture": "no mixture of drugs", "incomplete": "no open end (*)"}
    dropped = [text for flag, text in names.items() if flag not in settings.keep_flagged]
    return f"one whole molecule: {', '.join(dropped) or 'flagged ones kept'}"


def counted(texts: "pd.Series[str]") -> list[str]:
    """Return the most frequent texts with their counts, as examples of what a rule removed."""
    counts = texts.value_counts()
    shown = [f"{text} ({count:,})" for text, count in counts.head(EXAMPLES).items()]
    return shown + ([f"{len(counts) - EXAMPLES:,} more"] if len(counts) > EXAMPLES else [])


def require_wells(wells: "pd.DataFrame", ledger: Ledger, release_wells: "pd.DataFrame") -> None:
    """Raise if the rules have removed every well.

    Args:
        wells: The wells that are left.
        ledger: What each rule removed.
        release_wells: `Release.wells`, of which the message names the controls.

    Raises:
        DataError: If no well is left; says which rule removed the last one, and why.
    """
    if wells.empty:
        last = next(step for step in ledger.steps if step["wells_after"] == 0)
        what = f": {', '.join(last['examples'])}" if last["examples"] else ""
        hint = " (cleaning.min_profiles_per_compound=1 suits small releases)" if last["rule"].endswith("(i)") else ""
        raise DataError(
            f"no treated well is left: the rule '{last['rule']}' removed the last {last['removed']:,}{what}{hint};"
            f" {control_names(release_wells)}"
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
