"""The routes that show a molecule as the model sees it: named in a query, or in the path."""

from collections.abc import Callable

from fastapi import APIRouter

from ldm_ray.chem.smiles import MAX_SMILES_LENGTH
from ldm_ray.serving.backend import Backend
from ldm_ray.serving.errors import RequestError
from ldm_ray.serving.problems import ERRORS
from ldm_ray.serving.schemas import CompoundInfo, ModelName

ESCAPES = "in a URL write # as %23, % as %25, + as %2B, / as %2F and \\ as %5C"
"""A # ends a URL before it is sent, a + in a query means a space, and browsers turn \\ into /."""


def compounds(backend: Callable[[], Backend]) -> APIRouter:
    """Build the routes; `backend` is called for each request."""
    routes = APIRouter(prefix="/v1/compounds")

    @routes.get("", responses=ERRORS, summary="A molecule as the model sees it")
    async def in_query(smiles: str, model: ModelName = None) -> CompoundInfo:
        return await in_path(smiles, model)

    @routes.get("/{smiles:path}", responses=ERRORS, summary="The same, with the molecule in the path")
    async def in_path(smiles: str, model: ModelName = None) -> CompoundInfo:
        if len(smiles) > MAX_SMILES_LENGTH:
            raise RequestError("smiles", f"smiles must have at most {MAX_SMILES_LENGTH} characters; got {len(smiles)}")
        try:
            return await backend().compound(smiles, model)
        except RequestError as error:
            if error.field != "smiles":
                raise
            raise RequestError(error.field, f"{error}; {ESCAPES}", error.status) from None

    return routes
