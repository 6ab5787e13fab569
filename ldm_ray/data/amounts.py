"""Which doses and times of treated wells and controls are believed."""

from typing import TYPE_CHECKING

from ldm_ray.data.releases.units import NOT_POSITIVE, UNKNOWN
from ldm_ray.data_settings import CleaningSettings
from ldm_ray.errors import DataError, listing

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 3


def check_amounts(treated: "pd.DataFrame", controls: "pd.DataFrame", settings: CleaningSettings) -> None:
    """Refuse doses and times that cannot be read, or that are so high that their unit may be another.

    Args:
        treated: Treated wells of a release.
        controls: Its DMSO controls, whose dose does not matter.
        settings: The highest dose and time, and whether unreadable ones are dropped.

    Raises:
        DataError: Lists the first of them, and the setting that allows them.
    """
    checked = (
        ("treated wells", treated, "dose", "dose_um"),
        ("treated wells", treated, "time", "time_h"),
        ("controls", controls, "time", "time_h"),
    )
    for what, wells, name, value in checked:
        problem = wells[f"{name}_problem"]
        unread = wells[wells[value].isna() & ~problem.isin((UNKNOWN, NOT_POSITIVE))]
        if len(unread) and settings.unreadable_amounts == "refuse":
            raise DataError(
                f"{len(unread):,} of {len(wells):,} {what} have a {name} that cannot be read:"
                f" {_some(unread[f'{name}_problem'])} (cleaning.unreadable_amounts=drop leaves them out)"
            )
    for value, highest, unit in (("dose_um", settings.max_dose_um, "um"), ("time_h", settings.max_time_h, "h")):
        high = treated[treated[value] > highest]
        if len(high):
            amounts = _some(high[value].sort_values(ascending=False).map("{:,g}".format) + f" {unit}")
            raise DataError(
                f"{len(high):,} of {len(treated):,} treated wells have a {value} above {highest:,g}: {amounts}, such as"
                f" {high['profile_id'].iloc[0]}; is their unit right? cleaning.max_{value} allows them"
            )


def _some(texts: "pd.Series[str]") -> str:
    counts = texts.value_counts(sort=False)
    return listing([f"{text} ({count:,} wells)" for text, count in counts.items()], SHOWN)
