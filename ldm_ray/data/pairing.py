"""Pairs each treated well with a control profile, and reserves controls for scoring.

A treated well is paired with the DMSO wells of the same cell line and time on its own plate, else on plates of its
batch, else anywhere (rule iii of the paper's section 2.2). On every plate with enough DMSO wells half of them are
reserved: no trained model sees them, so a prediction can be scored against a control that it did not see.
"""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ldm_ray.data.releases.kinds import dmso_controls
from ldm_ray.data.splits import unit_interval
from ldm_ray.data_settings import PairingSettings
from ldm_ray.schema import PAIRING_LEVELS

REPLICATE_SUFFIX = re.compile(r"_X\d+(\D.*)?$")
KEYS = {
    "plate": ["cell", "time_h", "plate"],
    "batch": ["cell", "time_h", "batch"],
    "cell_time": ["cell", "time_h"],
}


@dataclass(frozen=True)
class Pairing:
    """Result of pairing.

    Attributes:
        wells: Treated wells with a control, with `batch`, `basal_id`, `reserved_basal_id` (-1 if the plate has
            no reserved control) and `pairing_level` added.
        basal: One row per control profile: `basal_id`, `cell`, `plate`, `time_h`, `role`, `n_wells`.
        members: The DMSO wells that each control profile averages: `basal_id`, `row`.
    """

    wells: pd.DataFrame
    basal: pd.DataFrame
    members: pd.DataFrame


def batch_of(plates: pd.Series) -> pd.Series:
    """Return the batch of each plate: its name without the replicate suffix `_X<n>`."""
    return plates.str.replace(REPLICATE_SUFFIX, "", regex=True)


def batch_name(plate: str) -> str:
    """Return the batch of a plate; that of a batch is itself."""
    return REPLICATE_SUFFIX.sub("", plate)


def dmso_wells(wells: pd.DataFrame) -> pd.DataFrame:
    """Return the vehicle controls with a known time whose vehicle is DMSO, or is not named."""
    return wells[dmso_controls(wells) & wells["time_h"].notna()]


def pair(treated: pd.DataFrame, controls: pd.DataFrame, settings: PairingSettings, seed: int) -> Pairing:
    """Pair treated wells with controls.

    Args:
        treated: Columns `profile_id`, `plate`, `cell`, `time_h` and any others, which are kept.
        controls: DMSO wells, columns `profile_id`, `plate`, `cell`, `time_h`, `row`.
        settings: Whether to use the mean of the matched wells or one of them; the smallest number of DMSO wells
            on a plate of which half are reserved.
        seed: Decides which wells are reserved and, with `basal_mode: well`, which well is used.
    """
    controls = controls.assign(batch=batch_of(controls["plate"]))
    controls = controls.assign(reserved=_reserved(controls, settings, seed))
    treated = treated.assign(batch=batch_of(treated["plate"]))
    inputs = controls[~controls["reserved"]]
    parts, groups = [], []
    left = treated
    for level in PAIRING_LEVELS:
        keys = KEYS[level]
        available = inputs[keys].drop_duplicates().assign(found=True)
        found = left.merge(available, on=keys, how="left")["found"].notna().to_numpy()
        chosen = left[found].assign(pairing_level=level)
        parts.append(chosen)
        groups.append(_members(chosen, inputs, keys, level, settings, seed))
        left = left[~found]
    members = pd.concat([*groups, _reserved_members(treated, controls)], ignore_index=True)
    basal, members = _number(members)
    wells = pd.concat(parts).sort_values("row")
    wells = _attach(wells, basal, settings, seed, inputs)
    return Pairing(wells, basal.drop(columns="group"), members)


def _reserved(controls: pd.DataFrame, settings: PairingSettings, seed: int) -> np.ndarray:
    """Mark half (rounded down) of the DMSO wells of each large enough plate, by a draw keyed on their ids."""
    draw = pd.Series([unit_interval(seed, "reserve", name) for name in controls["profile_id"]], controls.index)
    groups = [controls[key] for key in KEYS["plate"]]
    rank = draw.groupby(groups).rank(method="first") - 1
    size = draw.groupby(groups).transform("size")
    marked = (size >= settings.min_dmso_wells_to_reserve) & (rank < size // 2)
    return np.asarray(marked, dtype=bool)


def _members(
    chosen: pd.DataFrame,
    inputs: pd.DataFrame,
    keys: list[str],
    level: str,
    settings: PairingSettings,
    seed: int,
) -> pd.DataFrame:
    """Return the wells of the control profiles that `chosen` needs, one `group` per profile."""
    needed = chosen[keys].drop_duplicates()
    wells = inputs.merge(needed, on=keys, how="inner")
    place = {"plate": wells["plate"], "batch": wells["batch"], "cell_time": ""}[level]
    wells = wells.assign(plate=place, role="input", group=_group(level, wells, keys))
    if settings.basal_mode == "well":
        picked = set(_picked(chosen, inputs, keys, level, seed)["group"])
        wells = wells.assign(group="well\x1f" + level + "\x1f" + wells["profile_id"])
        wells = wells[wells["group"].isin(picked)]
    return wells[["group", "role", "cell", "plate", "time_h", "row"]]


def _group(level: str, wells: pd.DataFrame, keys: list[str]) -> pd.Series:
    return level + "\x1f" + wells[keys].astype(str).agg("\x1f".join, axis=1) if len(wells) else pd.Series(dtype=str)


def _picked(chosen: pd.DataFrame, inputs: pd.DataFrame, keys: list[str], level: str, seed: int) -> pd.DataFrame:
    """Draw one control well for each treated well, keyed on the treated well's id."""
    options = inputs.sort_values("profile_id").groupby(keys)["profile_id"].agg(list).rename("options")
    merged = chosen[["profile_id", *keys]].merge(options, left_on=keys, right_index=True, how="left")
    picks = [
        names[int(unit_interval(seed, "control", profile) * len(names))]
        for profile, names in zip(merged["profile_id"], merged["options"], strict=True)
    ]
    groups = [f"well\x1f{level}\x1f{name}" for name in picks]
    return pd.DataFrame({"profile_id": merged["profile_id"].to_numpy(), "group": groups})


def _reserved_members(treated: pd.DataFrame, controls: pd.DataFrame) -> pd.DataFrame:
    keys = KEYS["plate"]
    wells = controls[controls["reserved"]].merge(treated[keys].drop_duplicates(), on=keys, how="inner")
    wells = wells.assign(role="reserved", group=_group("reserved", wells, keys))
    return wells[["group", "role", "cell", "plate", "time_h", "row"]]


def _number(members: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Number the control profiles and list the wells of each."""
    groups = members.groupby("group", sort=True)
    basal = groups[["role", "cell", "plate", "time_h"]].first()
    basal = basal.assign(n_wells=groups.size()).reset_index()
    basal = basal.assign(basal_id=np.arange(len(basal), dtype=np.int32))
    numbered = members.merge(basal[["group", "basal_id"]], on="group", how="left")
    return basal, numbered[["basal_id", "row"]]


def _attach(
    wells: pd.DataFrame, basal: pd.DataFrame, settings: PairingSettings, seed: int, inputs: pd.DataFrame
) -> pd.DataFrame:
    """Add the ids of each treated well's input and reserved control profiles."""
    number = basal.set_index("group")["basal_id"]
    group = pd.Series("", index=wells.index)
    for level in PAIRING_LEVELS:
        rows = wells["pairing_level"] == level
        part = wells[rows]
        if part.empty:
            continue
        if settings.basal_mode == "well":
            picked = _picked(part, inputs, KEYS[level], level, seed).set_index("profile_id")["group"]
            group[rows] = part["profile_id"].map(picked)
        else:
            group[rows] = _group(level, part, KEYS[level])
    reserved = _group("reserved", wells, KEYS["plate"]).map(number).fillna(-1)
    return wells.assign(basal_id=group.map(number).astype(np.int32), reserved_basal_id=reserved.astype(np.int32))
