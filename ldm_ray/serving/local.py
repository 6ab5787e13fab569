"""Models in this process behind the API, without Ray: for tests, or if one process is enough."""

from collections.abc import Mapping

from ldm_ray.data.manifest import Gene
from ldm_ray.serving.backend import Answer
from ldm_ray.serving.errors import RequestError
from ldm_ray.serving.schemas import CellLine, CompoundInfo, ModelInfo, PredictRequest
from ldm_ray.serving.served import ServedModel


class LocalBackend:
    """Served models by name; the first is the default."""

    def __init__(self, served: Mapping[str, ServedModel]) -> None:
        self._served = dict(served)

    async def predict(self, request: PredictRequest) -> Answer:
        """Answer conditions."""
        return await self._named(request.model).predict(request)

    async def model(self, model: str | None) -> ModelInfo:
        """Describe a model."""
        return self._named(model).model()

    async def models(self) -> list[str]:
        """Return the names of the models."""
        return list(self._served)

    async def cells(self, model: str | None) -> list[CellLine]:
        """Return the cell lines that a model knows."""
        return self._named(model).cells()

    async def genes(self, model: str | None) -> list[Gene]:
        """Return the genes of a model."""
        return self._named(model).genes

    async def compound(self, smiles: str, model: str | None) -> CompoundInfo:
        """Describe a molecule."""
        return self._named(model).compound(smiles)

    async def ready(self) -> bool:
        """Tell whether there is a model."""
        return bool(self._served)

    def _named(self, model: str | None) -> ServedModel:
        if model is None:
            return next(iter(self._served.values()))
        if model not in self._served:
            raise RequestError("model", f"model {model[:40]!r} is not one of {', '.join(self._served)}", 404)
        return self._served[model]
