"""The groups of settings, as frozen models with defaults; `ldm_ray.config` resolves them.

Those of a release and of the dataset made from it are in `ldm_ray.data_settings`.
"""

import math
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Width = Annotated[int, Field(ge=1)]
Target = Literal["absolute", "delta", "residual", "effects"]
Head = Literal["mean", "x0", "v", "epsilon"]
Loss = Literal["nll", "paired_nll", "marginal_nll", "hybrid"]
BasalInput = Literal["cell_time", "matched"]
Norm = Literal["none", "layer", "batch"]
GdscDataset = Literal["GDSC1", "GDSC2"]
"""The two screens of GDSC, with different assays and doses."""
Origin = Annotated[str, StringConstraints(to_lower=True, pattern=r"^(\*|https?://[^/\s]+)$")]
"""As browsers write it: scheme, host and port, without a path."""
RivalKind = Literal["prnet", "pertdit-cross", "pertdit-catcross", "pertdit-ada"]
"""The published models that ours is compared with."""
RIVAL_KINDS: tuple[RivalKind, ...] = get_args(RivalKind)


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse a seed that is named twice: it would count as two agreeing runs."""
    if len(set(seeds)) < len(seeds):
        raise ValueError("each seed must be named once")
    return seeds


Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_distinct)]


MOLFORMER = "ibm/MoLFormer-XL-both-10pct"
MOLFORMER_REVISION = "7b12d946c181a37f6012b9dc3b002275de070314"


class Settings(BaseModel):
    """A frozen group of settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EncoderSettings(Settings):
    """Compound encoder.

    `ecfp` and `fcfp` are Morgan fingerprints with atom or feature invariants; `molformer` is MoLFormer; `hub` is any
    other encoder that transformers can load.
    """

    kind: Literal["ecfp", "fcfp", "molformer", "hub"] = "ecfp"
    radius: Annotated[int, Field(ge=0, le=6)] = 2
    n_bits: Annotated[int, Field(ge=16)] = 2048
    checkpoint: str = Field(default=MOLFORMER, min_length=1, description="name on the hub, or local folder")
    revision: str = Field(default=MOLFORMER_REVISION, min_length=1, description="pinned revision on the hub")
    trust_remote_code: bool = Field(default=False, description="run code from the hub (kind hub)")


class VaeSettings(Settings):
    """The autoencoder (docs/model.md)."""

    latent_dim: Width = 128
    size: bool = Field(
        default=False, description="split wells into a shape, which latent_dim dimensions encode, and a size, one more"
    )
    encoder_widths: tuple[Width, ...] = (512, 256, 256)
    decoder_widths: tuple[Width, ...] = Field(default=(), description="empty: a linear decoder, whose mean is exact")
    residual_decoder: bool = Field(default=False, description="the paper's decoder; ignores decoder_widths")
    kl_weight: Annotated[float, Field(ge=0)] = 0.01
    kl_warmup_steps: Annotated[int, Field(ge=0)] = Field(default=0, description="steps until kl_weight is reached")
    free_bits: Annotated[float, Field(ge=0)] = Field(default=0.0, description="unpenalised bits per latent dimension")
    reduction: Literal["mean", "sum"] = "mean"
    dropout: Fraction = 0.0
    standardise: bool = True
    observation_noise_rank: Annotated[int, Field(ge=0)] = 16

    @property
    def n_latents(self) -> int:
        """Dimensions that a diffusion model sees: those of the shape, and the size."""
        return self.latent_dim + self.size


class ScheduleSettings(Settings):
    """The noise schedule; `linear` is Eq. (4), the other kinds have no beta range."""

    kind: Literal["linear", "cosine", "sigmoid"] = "linear"
    num_steps: Annotated[int, Field(ge=2)] = 1000
    beta_first: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    beta_last: Annotated[float, Field(gt=0, lt=1)] = 0.01
    zero_terminal_snr: bool = Field(default=False, description="rescale so that nothing of z_0 is left at T")


class DenoiserSettings(Settings):
    """Condition encoder and denoiser (docs/model.md)."""

    head: Head = "v"
    loss: Loss = "hybrid"
    vlb_weight: Annotated[float, Field(ge=0)] = 0.001
    min_snr_gamma: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="bounds the weight of early steps (loss hybrid)"
    )
    step_sampling: Literal["uniform", "importance"] = "uniform"
    mean_head: bool = Field(default=False, description="also regress the mean; diffusion explains the rest")
    architecture: Literal["concat", "adaln"] = Field(default="concat", description="concat: as in the paper")
    basal_input: BasalInput = "cell_time"
    basal_widths: tuple[Width, ...] = (256, 128)
    compound_input: bool = Field(default=True, description="show the compound; the mean head always sees it")
    compound_widths: tuple[Width, ...] = (256, 128)
    scalar_dim: Width = 32
    condition_widths: tuple[Width, ...] = (256, 256)
    hidden_widths: Annotated[tuple[Width, ...], Field(min_length=1)] = (512, 512, 512)
    time_dim: Width = 128
    time_embedding: Literal["scalar", "sinusoidal"] = "scalar"
    norm: Norm = "layer"
    norm_groups: Width = Field(
        default=1, description="batch normalisation within so many parts of a batch; more exchange less (norm batch)"
    )
    dropout: Fraction = 0.4
    compound_dropout: Fraction = 0.7
    guidance_dropout: Fraction = Field(default=0.0, description="share of rows trained without their compound")
    raw_inputs: bool = Field(default=False, description="feed dose, time and t untransformed, as published")
    whiten: bool = Field(default=False, description="scale latents by their whole covariance, not one by one")
    zero_output: bool = Field(
        default=False, description="start the last layer at 0; a head v is then that of Gaussian latents"
    )


class PertditSettings(Settings):
    """The rival PertDiT; the defaults are the published sizes (docs/rivals.md)."""

    model_dim: Width = 256
    n_blocks: Width = 2
    n_heads: Width = 4
    genes_per_token: Width = Field(default=1, description="1 as published; more is faster without a GPU")
    num_steps: Annotated[int, Field(ge=2)] = 50
    beta_first: Annotated[float, Field(gt=0, lt=1)] = 0.002
    beta_last: Annotated[float, Field(gt=0, lt=1)] = 0.4


class OptimiserSettings(Settings):
    """One training run. The global batch does not depend on the number of workers."""

    epochs: Annotated[int, Field(ge=1)] = 30
    min_steps: Annotated[int, Field(ge=0)] = Field(
        default=0, description="on small data, train for more epochs until there are so many steps"
    )
    global_batch_size: Annotated[int, Field(ge=1)] = 256
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    warmup_share: Annotated[float, Field(ge=0, le=1)] = Field(default=0.0, description="initial share of learning_rate")
    learning_rate_shape: Literal["cosine", "triangle", "plateau"] = "cosine"
    cosine_steps: Annotated[int, Field(ge=1)] | None = Field(default=None, description="default: the length of the run")
    plateau_epochs: Annotated[int, Field(ge=1)] = Field(default=10, description="epochs without gain before halving")
    final_learning_rate_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    gradient_clip_norm: Annotated[float, Field(gt=0)] = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.995
    early_stopping_epochs: Annotated[int, Field(ge=1)] = 15
    keep: Literal["last", "loss", "vlb", "mse", "delta_pcc"] = Field(
        default="loss",
        description="epoch to keep: the last, or the best by a validation measure; mse and delta_pcc are of the"
        " reported mean",
    )
    checkpoint_every_steps: Annotated[int, Field(ge=1)] = 200

    def long_enough(self, n_wells: int) -> Self:
        """Return the settings with as many epochs as `min_steps` asks for, given the number of training wells.

        The patience of early stopping grows by the same factor.
        """
        steps = max(1, n_wells // self.global_batch_size)
        epochs = max(self.epochs, math.ceil(self.min_steps / steps))
        patience = math.ceil(self.early_stopping_epochs * epochs / self.epochs)
        return self.model_copy(update={"epochs": epochs, "early_stopping_epochs": patience})


class RaySettings(Settings):
    """What a run uses of the cluster (docs/resources.md)."""

    num_workers: Annotated[int, Field(ge=0)] = Field(
        default=0, description="training workers; 0: as many as the cluster and the batch justify"
    )
    use_gpu: bool | None = Field(
        default=None, description="default: if the cluster has GPUs; true: wait until nodes with GPUs have started"
    )
    actors: Annotated[int, Field(ge=0)] = Field(
        default=0, description="actors of a pool; 0: one per GPU or CPU; more makes an autoscaler start nodes"
    )
    placement_timeout_s: Annotated[float, Field(gt=0)] = Field(
        default=60.0, description="seconds to wait for workers to be placed; allow more if nodes must start first"
    )
    replacement_timeout_s: Annotated[float, Field(gt=0)] = Field(
        default=300.0, description="seconds allowed for each of two attempts to place workers after a loss"
    )
    max_failures: Annotated[int, Field(ge=-1)] = 3
    lanes: Annotated[int, Field(ge=1)] = 16
    object_store_mb: Annotated[int, Field(ge=80)] = 1024


class TrackSettings(Settings):
    """Which trackers follow a training run (docs/tracking.md)."""

    tensorboard: bool = True
    mlflow: str = Field(default="", description="sqlite:///FILE or http(s)://HOST; empty: off")
    wandb: str = Field(default="", description="Weights & Biases project; empty: off")
    wandb_mode: Literal["online", "offline"] = "online"
    experiment: Annotated[str, Field(min_length=1)] = "ldm_ray"


class PredictSettings(Settings):
    """How a bundle is sampled."""

    n_samples: Annotated[int, Field(ge=1)] = 16
    sampler: Literal["ancestral", "ddim", "dpm++2m", "dpm++2m-sde"] = "ancestral"
    steps: Annotated[int, Field(ge=2)] = 50
    spacing: Literal["linear", "quadratic", "log_snr"] = Field(default="linear", description="spacing of the steps")
    eta: Annotated[float, Field(ge=0, le=1)] = Field(default=0.0, description="share of noise (ddim)")
    correction: Annotated[float, Field(ge=0, le=1)] = Field(default=0.0, description="second-order share (ancestral)")
    guidance: Annotated[float, Field(ge=0)] = Field(default=1.0, description="1: none; else needs guidance_dropout")
    rows_per_batch: Annotated[int, Field(ge=0)] = Field(default=0, description="0: 128 on a CPU, 8192 on a GPU")
    rows_per_part: Annotated[int, Field(ge=1)] = Field(default=8192, description="conditions per bulk prediction part")
    columns: Annotated[tuple[Literal["mean", "std", "basal"], ...], Field(min_length=1)] = Field(
        default=("mean", "std"), description="what a bulk prediction keeps"
    )
    calibration_wells: Annotated[int, Field(ge=16)] = Field(
        default=512, description="validation wells to calibrate the sd on"
    )


class ServeSettings(Settings):
    """The endpoint (docs/serving.md)."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    max_conditions: Annotated[int, Field(ge=1)] = Field(default=256, description="per request")
    max_samples: Annotated[int, Field(ge=1)] = Field(default=1024, description="latent samples per condition")
    max_draws: Annotated[int, Field(ge=1)] = Field(default=4096, description="simulated wells per request")
    max_passes: Annotated[int, Field(ge=1)] = Field(
        default=2_000_000, description="conditions x samples x steps per request"
    )
    max_body_bytes: Annotated[int, Field(ge=1024)] = 8_000_000
    max_in_flight: Annotated[int, Field(ge=1)] = Field(
        default=64, description="requests in progress in an API replica; more are answered 503"
    )
    max_waiting: Annotated[int, Field(ge=1)] = Field(
        default=200_000, description="single-row network passes waiting in a sampler replica; more are answered 503"
    )
    cors_origins: tuple[Origin, ...] = Field(
        default=(), description="origins whose pages may ask, like https://lab.example; *: all"
    )
    threads: Annotated[int, Field(ge=0)] = Field(default=0, description="torch threads of a replica; 0: its CPUs")
    placement_timeout_s: Annotated[float, Field(gt=0)] = Field(
        default=60, description="seconds until `ldm-ray serve` gives up if its replicas cannot be placed"
    )


class EvaluateSettings(Settings):
    """How predictions are judged (docs/evaluation.md)."""

    split: Literal["test", "valid"] = "test"
    max_profiles: Annotated[int, Field(ge=0)] = Field(default=0, description="0: all wells; else a seeded subsample")
    n_samples: tuple[Annotated[int, Field(ge=2)], ...] = (16,)
    rows_per_block: Annotated[int, Field(ge=1)] = Field(default=4096, description="wells scored at once (whole plates)")
    sample_wells: Annotated[int, Field(ge=16)] = Field(default=8192, description="wells kept for pairwise scores")
    distribution_wells: Annotated[int, Field(ge=16)] = 512
    bootstrap_draws: Annotated[int, Field(ge=10)] = 200
    min_wells_per_cell_line: Annotated[int, Field(ge=1)] = 20
    min_compounds_per_plate: Annotated[int, Field(ge=2)] = 8
    workers: Annotated[int, Field(ge=0)] = Field(
        default=0, description="actors at once; 1: without Ray; 0: as many as fit, on Ray if the data are large"
    )


class Table1Settings(Settings):
    """What `evaluate --table1` trains and judges."""

    unseen: tuple[Literal["compound", "cell", "both", "plate", "scaffold"], ...] = ("compound",)
    seeds: Seeds = (0,)
    rivals: tuple[RivalKind, ...] = ("prnet",)
    paper: bool = Field(default=False, description="also the paper's model, preset paper, as row `paper`")


class ReproduceSettings(Settings):
    """What `ldm-ray reproduce` adds to Table 1."""

    folds: bool = Field(default=True, description="cross-validate the paper's autoencoder")
    pertdit_hours: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="hours to train PertDiT at its published size; 0: leave it out"
    )
    pertdit_wells: Annotated[int, Field(ge=16)] = Field(
        default=128, description="test wells that it is judged on; it takes over a second a profile on two cores"
    )
    paper: tuple[str, ...] = Field(
        default=(), description="key.path=value laid over preset paper and what it shares with the campaign"
    )


class Ic50Settings(Settings):
    """Drug sensitivity (docs/drug-sensitivity.md): which measurements; seeds, dose and time of `evaluate --ic50`."""

    dataset: GdscDataset = Field(default="GDSC2", description="rows to use of a table with a column DATASET")
    seeds: Seeds = (0, 1, 2)
    dose_um: Annotated[float, Field(gt=0)] = 10.0
    time_h: Annotated[float, Field(gt=0)] = 24.0


class Choice(Settings):
    """One of several values."""

    choices: Annotated[tuple[bool | int | float | str | tuple[int, ...] | None, ...], Field(min_length=1)]


class Range(Settings):
    """A number between two bounds, on a linear or log scale; an integer if both bounds are."""

    low: int | float
    high: int | float
    log: bool = False


RIVAL_FINGERPRINT = EncoderSettings(kind="fcfp", radius=2, n_bits=1024)
"""The drug vector of PRnet, and of AdaDiT as shipped."""


def optimiser_group(kind: str) -> Literal["train_vae", "train_ldm", "train_prnet", "train_pertdit"]:
    """Return the name of the settings group that trains a kind of model."""
    if kind == "vae":
        return "train_vae"
    if kind == "ldm":
        return "train_ldm"
    return "train_prnet" if kind == "prnet" else "train_pertdit"


class TuneSettings(Settings):
    """A search over settings (`ldm-ray tune`)."""

    trials: Annotated[int, Field(ge=1)] = 24
    objectives: Annotated[
        tuple[Literal["nll", "mse", "delta_pcc", "energy_distance", "sampling_cost"], ...], Field(min_length=1)
    ] = Field(default=("delta_pcc",), description="the first decides about early stops")
    space: dict[str, Choice | Range] = Field(default_factory=dict, description="settings key to its choices or range")
    random_trials: Annotated[int, Field(ge=1)] = Field(default=8, description="trials before the sampler learns")
    grace_epochs: Annotated[int, Field(ge=1)] = Field(default=2, description="epochs before any trial is stopped")
    reduction_factor: Annotated[int, Field(ge=2)] = Field(default=3, description="one trial in this many continues")
    concurrent: Annotated[int, Field(ge=0)] = Field(default=0, description="trials at once; 0: as many as fit")
    gpus_per_trial: Annotated[float, Field(gt=0)] = Field(default=1.0, description="GPUs, if any; may be a fraction")
    silence_s: Annotated[float, Field(gt=0)] = Field(default=600.0, description="seconds without news before a restart")
