"""Requests and answers over HTTP, typed, with units and examples."""

from typing import Annotated, Any, Literal, Self

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ldm_ray.chem.smiles import MAX_SMILES_LENGTH

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
MAX_DOSE_UM, MAX_TIME_H = 1e6, 1e5
ModelName = Annotated[str | None, Query(max_length=100, description="one of /v1/models; default: the first")]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Condition(BaseModel):
    """A compound on a cell line, at a dose, after a time."""

    model_config = ConfigDict(extra="forbid")

    smiles: Annotated[str, Field(min_length=1, max_length=MAX_SMILES_LENGTH, examples=[ASPIRIN])]
    cell: Annotated[str, Field(max_length=100)] | None = Field(
        default=None, description="a cell line of /v1/cells", examples=["A375"]
    )
    basal: list[Finite] | None = Field(
        default=None, description="or a control profile: log2 values in the order of /v1/genes", max_length=50_000
    )
    dose_um: Annotated[float, Field(gt=0, le=MAX_DOSE_UM, allow_inf_nan=False, examples=[10.0])]
    time_h: Annotated[float, Field(gt=0, le=MAX_TIME_H, allow_inf_nan=False, examples=[24.0])]

    @model_validator(mode="after")
    def _one_control(self) -> Self:
        if (self.cell is None) == (self.basal is None):
            raise ValueError("give either cell or basal")
        return self


class PredictRequest(BaseModel):
    """One or more conditions, and how to sample them."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    conditions: Annotated[list[Condition], Field(min_length=1)]
    n_samples: Annotated[int, Field(ge=1, description="latent samples per condition; default: the bundle's")] | None = (
        None
    )
    steps: Annotated[int, Field(ge=2, description="sampling steps; default: the bundle's")] | None = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1, description="same seed, same numbers")] = 0
    genes: Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None, description="gene symbols; default: all", examples=[["TP53", "MYC"]]
    )
    wanted: Literal["summary", "mean", "draws"] = Field(
        default="summary",
        alias="return",
        description="summary: mean, std and basal; mean: only mean; draws: summary and n_samples simulated wells",
    )
    model: Annotated[str, Field(max_length=100)] | None = Field(
        default=None, description="one of /v1/models; default: the first"
    )


class Prediction(BaseModel):
    """Log2 expression under one condition; arrays are in the order of `genes`."""

    parent_smiles: str = Field(description="parent structure, canonical")
    mean: list[float] = Field(description="expected expression, log2")
    std: list[float] | None = Field(default=None, description="standard deviation of a well around the mean, log2")
    basal: list[float] | None = Field(default=None, description="the control, log2")
    draws: list[list[float]] | None = Field(default=None, description="simulated wells, log2")
    similarity: float = Field(description="Tanimoto similarity to the nearest training compound")
    out_of_domain: bool
    notes: str = Field(description="which part of the SMILES was used, which control, and why it is out of domain")


class PredictResponse(BaseModel):
    """Predictions in the order of the conditions."""

    model: str
    bundle: str = Field(description="checksum of the bundle's metadata")
    genes: list[str]
    n_samples: int
    sampler: dict[str, Any]
    seed: int
    predictions: list[Prediction]


class CellLine(BaseModel):
    """A cell line that a condition may name."""

    cell: str
    times_h: list[float] = Field(description="hours at which its control is known")


class ModelInfo(BaseModel):
    """A served model."""

    model: str
    bundle: str
    n_genes: int
    n_samples: int
    sampler: dict[str, Any]
    encoder: dict[str, Any]
    trained_on: dict[str, Any]
    dose_um: list[float] = Field(min_length=2, max_length=2, description="smallest and largest in training")
    time_h: list[float] = Field(min_length=2, max_length=2, description="smallest and largest in training")
    ldm_ray_version: str


class CompoundInfo(BaseModel):
    """A molecule as the model sees it."""

    smiles: str = Field(description="canonical")
    parent_smiles: str
    inchikey: str
    flag: str = Field(description="why the parent may not stand for it: metal, mixture, incomplete, or empty")
    left_out: list[str] = Field(description="counter-ions and other parts that are not in the parent")
    known: bool = Field(description="whether a training compound has the same fingerprint")
    similarity: float = Field(description="Tanimoto similarity to the nearest training compound")
    drawing: str = Field(description="SVG")


class FieldProblem(BaseModel):
    """One wrong field."""

    field: str = Field(description="path in the request", examples=["conditions.0.dose_um"])
    detail: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldProblem] = []
