"""A typed client for the endpoint.

from ldm_ray.serving.client import Client
with Client("http://127.0.0.1:8000") as client:
    answer = client.predict([{"smiles": "CCO", "cell": "A375", "dose_um": 10, "time_h": 24}], seed=1)
    answer.mean  # (1, n_genes), log2
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, cast

import httpx
import numpy as np
import pyarrow as pa

from ldm_ray.errors import LdmRayError
from ldm_ray.serving.proxies import way_to

if TYPE_CHECKING:  # a client needs neither torch nor pydantic
    from ldm_ray.bundle.metadata import EncoderIdentity
    from ldm_ray.data.manifest import Gene
    from ldm_ray.diffusion.samplers import SamplerFields
    from ldm_ray.serving.answers import About, Head

ARROW = "application/vnd.apache.arrow.stream"
AGAIN = frozenset({429, 502, 503, 504})
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0


class ServerError(LdmRayError):
    """The server refused, failed or was unreachable.

    Attributes:
        status: HTTP status; 0 if the server could not be reached.
        errors: Wrong fields, each with a reason, if the server names them.
        request_id: Id of the request in the server's log.
    """

    def __init__(
        self, message: str, status: int, errors: Sequence[Mapping[str, str]] = (), request_id: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.errors, self.request_id = status, list(errors), request_id


class ServedCell(TypedDict):
    """A cell line that a condition may name, and the exposures in hours at which its control is known."""

    cell: str
    times_h: list[float]


class ServedTraining(TypedDict):
    """What a served model was trained on."""

    n_profiles: int
    simulated: bool
    manifest_sha256: str


class ServedInfo(TypedDict):
    """A served model; doses and times are the smallest and largest in training."""

    model: str
    bundle: str
    n_genes: int
    n_samples: int
    sampler: "SamplerFields"
    encoder: "EncoderIdentity"
    trained_on: ServedTraining
    dose_um: list[float]
    time_h: list[float]
    ldm_ray_version: str


@dataclass(frozen=True)
class Predicted:
    """Predictions for n conditions, log2; `std`, `basal` and `draws` only if asked for.

    Attributes:
        genes: Gene symbols, in the order of the arrays.
        mean: Expected expression, (n, n_genes).
        std: Standard deviation of a well around the mean, (n, n_genes).
        basal: The control, (n, n_genes).
        draws: Simulated wells, (n, n_samples, n_genes).
        similarity: Tanimoto similarity to the nearest training compound, (n,).
        out_of_domain: Whether the condition lies outside of training, (n,).
        notes: Notes on each condition, n.
        about: Model, bundle, sampler, number of samples and seed.
    """

    genes: list[str]
    mean: np.ndarray
    std: np.ndarray | None
    basal: np.ndarray | None
    draws: np.ndarray | None
    similarity: np.ndarray
    out_of_domain: np.ndarray
    notes: list[str]
    about: "About"


class Client:
    """Queries a server, and retries if it is busy, unreachable, or loses the request.

    Equal requests have equal answers, so it is always safe to send a request again.

    Servers on this machine are asked directly; others through the proxy that the environment names (`HTTPS_PROXY`).

    Args:
        url: URL of the server.
        token: Bearer token, if the server needs one.
        timeout_s: Seconds per attempt.
        retries: Further attempts after the first.

    Raises:
        ServerError: If the URL is invalid, or the environment names a proxy that cannot be used.
    """

    def __init__(self, url: str, token: str = "", timeout_s: float = 60.0, retries: int = 5) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._retries = retries
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ServerError(f"url must be like http://HOST:PORT; got {url!r} ({error})", 0) from None
        self._way = way_to(address.host, address.scheme)
        try:
            transport = self._way.transport()
        except ValueError as error:
            raise ServerError(f"{url} cannot be reached{self._way.words}: {error}", 0) from None
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(
        self,
        conditions: Sequence[Mapping[str, object]],
        *,
        n_samples: int | None = None,
        steps: int | None = None,
        seed: int = 0,
        genes: Sequence[str] | None = None,
        wanted: Literal["summary", "mean", "draws"] = "summary",
        model: str | None = None,
    ) -> Predicted:
        """Predict conditions: mappings with smiles, cell or basal, dose_um and time_h.

        Raises:
            ServerError: If the server refuses, fails or cannot be reached.
        """
        asked: dict[str, object] = {
            "n_samples": n_samples,
            "steps": steps,
            "genes": genes and list(genes),
            "model": model,
        }
        body = {key: value for key, value in asked.items() if value is not None}
        body |= {"conditions": [dict(condition) for condition in conditions], "seed": seed, "return": wanted}
        response = self._send("POST", "/v1/predict", json=body, headers={"Accept": ARROW})
        table = pa.ipc.open_stream(response.content).read_all()
        head: Head = json.loads(table.schema.metadata[b"answer"])
        arrays = {
            name: np.array(table[name].to_pylist(), dtype=np.float32) if name in table.column_names else None
            for name in ("mean", "std", "basal", "draws")
        }
        draws = arrays["draws"]
        assert arrays["mean"] is not None
        return Predicted(
            genes=head["genes"],
            mean=arrays["mean"],
            std=arrays["std"],
            basal=arrays["basal"],
            draws=None if draws is None else draws.reshape(len(draws), -1, len(head["genes"])),
            similarity=table["similarity"].to_numpy(),
            out_of_domain=table["out_of_domain"].to_numpy(zero_copy_only=False),
            notes=table["notes"].to_pylist(),
            about=cast("About", {name: value for name, value in head.items() if name != "genes"}),
        )

    def model(self, model: str | None = None) -> ServedInfo:
        """Describe a served model."""
        return cast(ServedInfo, self._get("/v1/model", model))

    def cells(self, model: str | None = None) -> list[ServedCell]:
        """Return the cell lines that a condition may name."""
        return list(self._get("/v1/cells", model))

    def genes(self, model: str | None = None) -> "list[Gene]":
        """Return the genes of a profile, in order."""
        return list(self._get("/v1/genes", model))

    def _get(self, path: str, model: str | None) -> Any:
        return self._send("GET", path, params={} if model is None else {"model": model}).json()

    def _send(self, method: str, path: str, **what: Any) -> httpx.Response:
        wait_s = FIRST_WAIT_S
        for left in range(self._retries, -1, -1):
            try:
                response = self._http.request(method, path, **what)
            except httpx.TransportError as error:
                if not left:
                    raise ServerError(f"{self._http.base_url} cannot be reached{self._way.words}: {error}", 0) from None
            else:
                if response.is_success and _kind(response) in (ARROW, "application/json"):
                    return response
                # A killed replica loses its requests; Serve answers 500 for them.
                if not left or response.status_code not in AGAIN | {500}:
                    raise _refusal(response, self._way.words)
                wait_s = max(wait_s, _retry_after(response))
            time.sleep(min(wait_s, LONGEST_WAIT_S))
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        raise AssertionError("the last attempt returns or raises")


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("retry-after", "0")
    return float(text) if text.isdigit() else 0.0


def _kind(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0]


def _refusal(response: httpx.Response, way: str) -> ServerError:
    try:
        body = response.json()
    except ValueError:
        body = {}
    body = body if isinstance(body, dict) else {}
    detail = (
        body.get("detail") or f"the server answered {response.status_code} with {_kind(response) or 'nothing'}{way}"
    )
    return ServerError(
        str(detail), response.status_code, body.get("errors", []), response.headers.get("x-request-id", "")
    )
