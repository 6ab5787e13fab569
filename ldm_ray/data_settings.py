"""The settings of a release and of the paired dataset made from it."""

from typing import Annotated, Literal

from pydantic import Field

from ldm_ray.settings import Fraction, Settings

Basal = Literal["mean", "well"]


class SimulateSettings(Settings):
    """The simulated release (`ldm-ray simulate`)."""

    n_profiles: Annotated[int, Field(ge=500)] = 12_000
    n_cell_lines: Annotated[int, Field(ge=2, le=500)] = 6
    n_compounds: Annotated[int, Field(ge=20)] | None = Field(default=None, description="default: n_profiles / 25")
    n_mechanisms: Annotated[int, Field(ge=2, le=16)] = 16
    replicates: Annotated[int, Field(ge=1, le=9)] = 3
    treated_wells_per_plate: Annotated[int, Field(ge=24, le=320)] = 192
    dmso_wells_per_plate: Annotated[int, Field(ge=1, le=32)] = 12
    well_noise_sd_log2: Annotated[float, Field(gt=0)] = 0.85
    plate_effect_sd_log2: Annotated[float, Field(ge=0)] = 0.35
    treated_plate_effect_sd_log2: Annotated[float, Field(ge=0)] = 0.12
    replicate_delta_correlation: Annotated[float, Field(gt=0, lt=1)] = 0.16
    idiosyncratic_share: Annotated[float, Field(ge=0, lt=1)] = 0.3
    dirt: bool = True
    threads: Annotated[int, Field(ge=1)] = 2


class CleaningSettings(Settings):
    """The paper's section 2.2."""

    min_profiles_per_compound: Annotated[int, Field(ge=1)] = 5
    max_dose_um: Annotated[float, Field(gt=0)] = Field(
        default=1000.0, description="a release with higher doses is refused, since their unit may be another"
    )
    max_time_h: Annotated[float, Field(gt=0)] = Field(
        default=720.0, description="a release with longer times is refused, since their unit may be another"
    )
    unreadable_amounts: Literal["refuse", "drop"] = Field(
        default="refuse", description="what to do with treated wells whose dose or time cannot be read"
    )
    keep_flagged: tuple[Literal["metal", "mixture", "incomplete"], ...] = Field(
        default=("metal",), description="flagged compounds to keep (docs/data.md)"
    )


class PairingSettings(Settings):
    """Which controls a treated well is paired with."""

    basal_mode: Basal = "mean"
    min_dmso_wells_to_reserve: Annotated[int, Field(ge=2)] = 4


class SplitSettings(Settings):
    """Wells held out by compound, cell line or batch of plates."""

    seed: Annotated[int, Field(ge=0)] = 0
    test_fraction: Fraction = 0.2
    valid_fraction: Fraction = 0.2
    n_folds: Annotated[int, Field(ge=2, le=100)] = 5


class PrepareSettings(Settings):
    """How a release is read and the dataset written."""

    block_mb: Annotated[int, Field(ge=1)] = Field(default=128, description="megabytes that one task reads at once")
    rows_per_file: Annotated[int, Field(ge=64)] = 16_384
    workers: Annotated[int, Field(ge=0)] = Field(
        default=0, description="tasks at once; 1: without Ray; 0: as many as fit, on Ray if the data are large"
    )


class IngestSettings(Settings):
    """How treated wells reach training workers (docs/ingest.md)."""

    mode: Literal["auto", "stream", "resident"] = Field(
        default="auto", description="auto: resident if a worker's wells fit into resident_mb, else stream"
    )
    resident_mb: Annotated[int, Field(ge=1)] = 4096
    shuffle_window_rows: Annotated[int, Field(ge=1)] = 32_768
    latents: bool = Field(default=True, description="encode each profile once, before diffusion training")
    wait_for_storage_s: Annotated[float, Field(ge=0)] = Field(
        default=300.0, description="seconds that a read waits for a store that does not answer; 0: fail at once"
    )


class EffectsSettings(Settings):
    """The mean model of target `effects` (docs/model.md)."""

    landmarks: Annotated[int, Field(ge=1)] = Field(
        default=2048, description="most conditions that the kernel head compares a query with"
    )
