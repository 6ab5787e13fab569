"""Predictions as response bodies: JSON or Arrow."""

from typing import TypedDict

import numpy as np
import orjson
import pyarrow as pa

from ldm_ray.diffusion.samplers import SamplerFields
from ldm_ray.serving.backend import Answer
from ldm_ray.serving.errors import RequestError
from ldm_ray.serving.schemas import PredictRequest
from ldm_ray.storage.store import list_column

ARROW, JSON = "application/vnd.apache.arrow.stream", "application/json"


class About(TypedDict):
    """Which model answered, and how it sampled."""

    model: str
    bundle: str
    n_samples: int
    sampler: SamplerFields
    seed: int


class Head(About):
    """What is common to all predictions of an answer."""

    genes: list[str]


def chosen_genes(request: PredictRequest, genes: list[str]) -> np.ndarray:
    """Return the positions of the requested genes.

    Raises:
        RequestError: If the model does not have a gene.
    """
    if request.genes is None:
        return np.arange(len(genes))
    place = {symbol: number for number, symbol in enumerate(genes)}
    for number, symbol in enumerate(request.genes):
        if symbol not in place:
            raise RequestError(f"genes.{number}", f"gene {symbol[:40]!r} is not one of /v1/genes")
    return np.array([place[symbol] for symbol in request.genes])


def as_json(answer: Answer, request: PredictRequest) -> bytes:
    """Write an answer as JSON, with the fewest digits that give the same float32 back."""
    place = chosen_genes(request, answer.genes)
    arrays = _arrays(answer, request, place)
    rows = [
        {
            "parent_smiles": answer.parents[number],
            **{name: np.ascontiguousarray(values[number]) for name, values in arrays.items()},
            "similarity": float(answer.similarity[number]),
            "out_of_domain": bool(answer.out_of_domain[number]),
            "notes": answer.notes[number],
        }
        for number in range(len(answer.parents))
    ]
    body = {**_head(answer, request), "predictions": rows}
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def as_arrow(answer: Answer, request: PredictRequest) -> bytes:
    """Write an answer as an Arrow IPC stream with one row per condition; metadata `answer` holds the rest."""
    place = chosen_genes(request, answer.genes)
    columns: dict[str, object] = {"parent_smiles": answer.parents}
    for name, values in _arrays(answer, request, place).items():
        flat = values.reshape(len(values), -1)
        columns[name] = list_column(np.ascontiguousarray(flat))
    columns |= {"similarity": answer.similarity, "out_of_domain": answer.out_of_domain, "notes": list(answer.notes)}
    table = pa.table(columns).replace_schema_metadata({"answer": orjson.dumps(_head(answer, request))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _arrays(answer: Answer, request: PredictRequest, place: np.ndarray) -> dict[str, np.ndarray]:
    names = {"mean": ("mean",), "summary": ("mean", "std", "basal"), "draws": ("mean", "std", "basal", "draws")}
    return {name: getattr(answer, name)[..., place] for name in names[request.wanted]}


def _head(answer: Answer, request: PredictRequest) -> Head:
    return {
        "model": answer.model,
        "bundle": answer.bundle,
        "genes": answer.genes if request.genes is None else request.genes,
        "n_samples": answer.n_samples,
        "sampler": answer.sampler,
        "seed": request.seed,
    }
