"""The endpoint on Ray Serve: deployments `api`, `encoder` and `sampler`.

Only `api` is configured with the bundles (`user_config`); a sampler loads what it is asked for. So a new bundle is
loaded before the first request sees it, and requests in progress finish with the old one.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from ldm_ray.bundle.bundle import checksum
from ldm_ray.bundle.metadata import Metadata, read_metadata
from ldm_ray.bundle.presence import require_bundle
from ldm_ray.chem.embedding import CompoundEncoder, build_encoder
from ldm_ray.chem.smiles import parse_compound
from ldm_ray.cluster.metrics import counter, gauge, histogram
from ldm_ray.config import Config, load_config
from ldm_ray.data.manifest import Gene
from ldm_ray.errors import LdmRayError
from ldm_ray.prediction.lru import Lru
from ldm_ray.serving.app import create_app
from ldm_ray.serving.backend import Answer
from ldm_ray.serving.errors import OverloadedError, RequestError
from ldm_ray.serving.layers import layered
from ldm_ray.serving.schemas import CellLine, CompoundInfo, ModelInfo, PredictRequest
from ldm_ray.serving.served import ServedModel
from ldm_ray.settings import EncoderSettings, ServeSettings
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.store import Store

log = logging.getLogger("ldm_ray.serve")

TOKEN_VARIABLE = "LDM_RAY_TOKEN"
KNOWN_COMPOUNDS = 8192
RELOADS = 3
MAX_BUNDLES = 4
"""A replica may hold twice as many while new bundles replace old ones."""
REPLACED_S = 10.0
REPORT_S = 5.0
GAUGES = ("rows_busy", "passes_waiting", "rows_per_pass", "compound_cache_hits", "compound_cache_misses")
"""What a sampler reports about each of its models every `REPORT_S`."""


class ServeArguments(BaseModel):
    """Arguments of the application in `serve_config.yaml`."""

    model_config = ConfigDict(extra="forbid")

    bundles: dict[str, str] = Field(
        min_length=1, max_length=MAX_BUNDLES, description="name of a model to the URL of its bundle"
    )
    settings: list[str] = Field(default=[], description="like --set: key.path=value")


@serve.deployment(name="encoder", max_ongoing_requests=64)
class Encoder:
    """Embeds compounds and caches the embeddings."""

    def __init__(self) -> None:
        self._encoders: dict[EncoderSettings, tuple[CompoundEncoder, Lru[str, np.ndarray]]] = {}

    async def embed(self, settings: EncoderSettings, parents: list[str]) -> np.ndarray | LdmRayError:
        """Return embeddings of parent structures, (n, dim), float32, or the error of one of them."""
        if settings not in self._encoders:
            self._encoders[settings] = (build_encoder(settings), Lru[str, np.ndarray](KNOWN_COMPOUNDS))
        encoder, known = self._encoders[settings]
        try:
            rows = await asyncio.to_thread(
                known.fetch, parents, lambda new: [row.copy() for row in encoder.encode(new)]
            )
        except LdmRayError as error:  # returned, since Serve logs raised errors as its own failures
            return error
        return np.stack(rows)


@serve.deployment(name="sampler", max_ongoing_requests=64, max_queued_requests=128)
class Sampler:
    """Samples with the models that requests name; a model's id is its name, and its bundle's URL and checksum."""

    def __init__(self, settings: ServeSettings, storage_options: StorageOptions) -> None:
        torch.set_num_threads(settings.threads or max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
        self._settings, self._storage_options = settings, storage_options
        self._served: dict[str, ServedModel] = {}
        self._gauges = {name: gauge(name) for name in GAUGES}
        self._finished = counter("profiles_finished")
        self._reporting = asyncio.get_event_loop().create_task(self._report())

    @serve.multiplexed(max_num_models_per_replica=2 * MAX_BUNDLES)  # type: ignore[untyped-decorator]
    async def _load(self, model_id: str) -> ServedModel:
        name, url, wanted = model_id.split("|")
        served = await asyncio.to_thread(ServedModel.load, name, url, self._settings.max_waiting, self._storage_options)
        if served.bundle_id != wanted:
            served.close()
            raise OverloadedError(f"the bundle at {url} has been replaced and is not deployed yet", REPLACED_S)
        self._served[model_id] = served
        return served

    async def predict(
        self, model_id: str, request: PredictRequest, vectors: Mapping[str, np.ndarray]
    ) -> Answer | LdmRayError:
        """Answer a request; `vectors` are embeddings of its parents. A refusal is returned, not raised."""
        for _ in range(RELOADS):
            served: ServedModel | None = None
            try:
                served = await self._load(model_id)
                answer = await served.predict(request, vectors)
            except LdmRayError as error:
                if served is None or not served.closed:
                    return error
                continue
            self._finished.inc(len(request.conditions), {"model": served.name})
            return answer
        return OverloadedError("the model is reloading", 1.0)

    async def describe(
        self, model_id: str
    ) -> tuple[ModelInfo, list[CellLine], list[Gene], EncoderSettings] | LdmRayError:
        """Return a model's description, its cell lines and genes, and how its compounds are encoded."""
        try:
            served = await self._load(model_id)
        except LdmRayError as error:
            return error
        return served.model(), served.cells(), served.genes, served.predictor.bundle.config.encoder

    async def compound(self, model_id: str, smiles: str) -> CompoundInfo | LdmRayError:
        """Describe a molecule; a refusal is returned, not raised."""
        try:
            served: ServedModel = await self._load(model_id)
            return served.compound(smiles)
        except LdmRayError as error:
            return error

    def check_health(self) -> None:
        """Make Serve replace a replica whose sampler has failed."""
        if broken := [served.name for served in self._served.values() if served.engine.broken]:
            raise RuntimeError(f"the sampler of {', '.join(broken)} has ended")

    async def _report(self) -> None:
        """Report regularly to Ray's metrics how busy the models are."""
        while True:
            await asyncio.sleep(REPORT_S)
            self._served = {
                model_id: served  # keep broken ones for `check_health` to see
                for model_id, served in self._served.items()
                if served.engine.broken or not served.closed
            }
            for served in self._served.values():
                load, cache = served.engine.load(), served.predictor.encodings
                values = {
                    "rows_busy": load.busy,
                    "passes_waiting": load.waiting,
                    "rows_per_pass": load.row_passes / max(1, load.passes),
                    "compound_cache_hits": cache.compounds.hits if cache else 0,
                    "compound_cache_misses": cache.compounds.misses if cache else 0,
                }
                for name, value in values.items():
                    self._gauges[name].set(float(value), {"model": served.name})


@dataclass(frozen=True)
class _Model:
    """What the API knows about a model."""

    model_id: str
    info: ModelInfo
    cells: list[CellLine]
    genes: list[Gene]
    encoder: EncoderSettings


@serve.deployment(name="api", max_ongoing_requests=96, max_queued_requests=32)
@serve.ingress()
class Api:
    """The HTTP API; a `Backend` whose models are on the cluster."""

    def __init__(
        self,
        encoder: DeploymentHandle[Any],
        sampler: DeploymentHandle[Any],
        settings: ServeSettings,
        storage_options: StorageOptions,
    ) -> None:
        self._encoder, self._sampler, self._settings = encoder, sampler, settings
        self._storage_options = storage_options
        self._models: dict[str, _Model] = {}
        self._vectors: dict[EncoderSettings, Lru[str, np.ndarray]] = {}
        logging.getLogger("ldm_ray.serve").setLevel(logging.INFO)
        self._latency = histogram("request_seconds")

    def __serve_build_asgi_app__(self) -> ASGIApp:
        token = os.environ.get(TOKEN_VARIABLE, "")
        app = create_app(lambda: self, self._settings)
        return layered(app, self._settings, token, self._observe, behind_serve=True)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve other bundles; new ones are loaded before the first request sees them.

        If one cannot be loaded, the old bundles stay, and the log says so.
        """
        try:
            bundles = ServeArguments(bundles=user_config["bundles"]).bundles
            models = {name: await self._describe(name, url) for name, url in bundles.items()}
        except Exception as error:  # if raised, Serve would stop this replica and all its successors
            if not self._models:
                raise
            log.error("cannot load the new bundles, keeping the old ones: %s", error)
            return
        self._models = models

    async def _describe(self, name: str, url: str) -> _Model:
        metadata = await asyncio.to_thread(self._metadata, url)
        model_id = f"{name}|{url}|{checksum(metadata)}"
        return _Model(model_id, *await self._ask(model_id, "describe"))

    async def predict(self, request: PredictRequest) -> Answer:
        """Answer conditions."""
        model = self._named(request.model)
        parents = await asyncio.to_thread(_parents, request)
        vectors = await self._embed(model.encoder, parents)
        answer: Answer = await self._ask(model.model_id, "predict", request, vectors)
        return answer

    async def model(self, model: str | None) -> ModelInfo:
        """Describe a model."""
        return self._named(model).info

    async def models(self) -> list[str]:
        """Return the names of the models."""
        return list(self._models)

    async def cells(self, model: str | None) -> list[CellLine]:
        """Return the cell lines that a model knows."""
        return self._named(model).cells

    async def genes(self, model: str | None) -> list[Gene]:
        """Return the genes of a model."""
        return self._named(model).genes

    async def compound(self, smiles: str, model: str | None) -> CompoundInfo:
        """Describe a molecule."""
        info: CompoundInfo = await self._ask(self._named(model).model_id, "compound", smiles)
        return info

    async def ready(self) -> bool:
        """Tell whether the models are loaded."""
        return bool(self._models)

    async def _embed(self, encoder: EncoderSettings, parents: list[str]) -> dict[str, np.ndarray]:
        """Return embeddings of parents; the encoder is asked only for those not cached here."""
        known = self._vectors.setdefault(encoder, Lru[str, np.ndarray](KNOWN_COMPOUNDS))
        rows = await known.fetch_async(parents, lambda new: _call(self._encoder.embed, encoder, new))
        return dict(zip(parents, rows, strict=True))

    async def _ask(self, model_id: str, method: str, *arguments: object) -> Any:
        # With an id Serve prefers replicas that have the model; new replicas of an only model would get no requests.
        handle = self._sampler.options(multiplexed_model_id=model_id) if len(self._models) > 1 else self._sampler
        return await _call(getattr(handle, method), model_id, *arguments)

    def _named(self, model: str | None) -> _Model:
        if not self._models:
            raise OverloadedError("the model is still loading", 1.0)
        if model is None:
            return next(iter(self._models.values()))
        if model not in self._models:
            raise RequestError("model", f"model {model[:40]!r} is not one of {', '.join(self._models)}", 404)
        return self._models[model]

    def _metadata(self, url: str) -> Metadata:
        require_bundle(url, self._storage_options)
        return read_metadata(Store(url, self._storage_options))

    def _observe(self, route: str, status: int, seconds: float) -> None:
        self._latency.observe(seconds, {"route": route, "status": str(status)})


def _parents(request: PredictRequest) -> list[str]:
    """Return unique parent structures; the sampler refuses what is not one drug, and names the field."""
    compounds = (parse_compound(condition.smiles) for condition in request.conditions)
    return list(dict.fromkeys(compound.parent_smiles for compound in compounds if compound and compound.is_one_drug))


async def _call(method: Any, *arguments: object) -> Any:
    """Call a deployment; raise the refusal that it returns, or `OverloadedError` if its queue is full."""
    try:
        result = await method.remote(*arguments)
    except BackPressureError:
        raise OverloadedError("too many requests are waiting", 1.0) from None
    if isinstance(result, LdmRayError):
        raise result
    return result


def build(arguments: ServeArguments) -> serve.Application:
    """Build the application of `serve_config.yaml`; Serve needs a function of one argument."""
    return application(arguments, load_config(None, arguments.settings))


def application(
    arguments: ServeArguments, config: Config, options: Mapping[str, Mapping[str, Any]] | None = None
) -> serve.Application:
    """Assemble the deployments.

    Args:
        arguments: The bundles to serve.
        config: Resolved settings.
        options: Serve's options for each deployment, by name.
    """
    more, storage = options or {}, config.storage_options
    encoder, sampler, api = (
        deployment.options(**more.get(deployment.name, {}))
        for deployment in (cast(serve.Deployment, kind) for kind in (Encoder, Sampler, Api))
    )
    configured = api.options(user_config={"bundles": arguments.bundles})
    return configured.bind(encoder.bind(), sampler.bind(config.serve, storage), config.serve, storage)
