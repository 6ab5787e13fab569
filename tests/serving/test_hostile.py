"""Requests of strangers: generated from the API's description, and strings that are not molecules or odd ones."""

import asyncio
import gc
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.types import ASGIApp

from ldm_ray.serving.app import create_app
from ldm_ray.serving.layers import layered
from ldm_ray.serving.local import LocalBackend
from ldm_ray.serving.served import ServedModel
from ldm_ray.settings import ServeSettings
from tests.bundles import random_bundle
from tests.conftest import World

LIMITS = ServeSettings(max_conditions=8, max_samples=16, max_draws=40, max_body_bytes=150_000)
AT_ONCE, LIMIT_S, MAX_GROWTH_MB = 20, 20.0, 64.0
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def gate(world: World) -> Iterator[ASGIApp]:
    served = ServedModel("demo", random_bundle(world), max_waiting=1_000_000)
    backend = LocalBackend({"demo": served})
    app = create_app(lambda: backend, LIMITS)
    yield layered(app, LIMITS, "", lambda *_: None)
    served.close()


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_requests_made_from_the_description(gate: ASGIApp, mode: GenerationMode) -> None:
    """Right and wrong requests of every route get the statuses, content types and bodies that the description says."""
    tried = []
    for found in schemathesis.openapi.from_asgi("/openapi.json", gate).get_all_operations():
        operation = found.ok()
        tried.append(operation.path)

        @settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS)

        try:
            send()
        except Unsatisfiable:  # a route without parameters has no wrong requests
            assert mode == GenerationMode.NEGATIVE
    assert {"/v1/predict", "/v1/model", "/v1/compounds/{smiles}", "/readyz"} <= set(tried)


MOLECULES = ["CC(=O)Oc1ccccc1C(=O)O", "C[C@H](N)C(=O)O", "O=C1NC(=O)c2ccccc12", "[Na+].[O-]C(=O)c1ccccc1"]
ODD = [
    "CCO>>CC=O", "CCO.CC(=O)O>[H+]>CC(=O)OCC", "{[$]CC[$]}", "*CC*", "[*:1]c1ccccc1", "[R1]CC", "[Og]", "[Uuo]",
    "[13CH4]", "[2H]O[2H]", "C%99CC%99", "C1CC", "C((((", "))))", "[C@@@H]", "[C+99]", "[U+6].[O-2]", "[]", "[H][H]",
    "[Xe]", "c1cccc1", "N#[N]=N", "F/C=C/F", "OC[C@H]1O[C@@H]1C |&1:2|", "InChI=1S/CH4/h1H4", "-666", "restricted",
    "\0", "\u202eCCO", "C\nC", "💊", "C" * 2000, "C1CC1" * 400, "C1C2CC3CC1CC(C2)C3" * 50, "C(" * 900,
    ".".join("C" * 900), "*" * 2000, "[Fe]" * 400, "C" * 100_000,
]  # fmt: skip
SYMBOLS = st.sampled_from([*"CNOPSFIBcnosp[]()=#-+\\/@.%0123456789*>{}$|:&~ ", "Cl", "Br", "[nH]", "@@", "[Se]"])


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A molecule some of whose characters are lost, doubled or replaced."""
    text = list(draw(st.sampled_from(MOLECULES)) * draw(st.integers(1, 3)))
    for _ in range(draw(st.integers(1, 5))):
        text[draw(st.integers(0, len(text) - 1))] = draw(st.one_of(st.just(""), SYMBOLS))
    return "".join(text)


STRINGS = st.one_of(
    st.text(max_size=80),
    st.lists(SYMBOLS, max_size=60).map("".join),
    mutated(),
    st.sampled_from(ODD),
    st.sampled_from(MOLECULES).flatmap(lambda one: st.integers(1, 60).map(lambda n: (one * n)[:3000])),
)


@pytest.mark.parametrize("n_strings", [400, pytest.param(10_000, marks=pytest.mark.full)])
def test_strings_that_are_no_molecules_or_odd_ones(gate: ASGIApp, n_strings: int) -> None:
    """Each is answered or refused, never with a 500, within a limit; memory does not grow with their number."""
    seen: dict[int, int] = {}
    memory: list[float] = []

    @settings(
        max_examples=n_strings // AT_ONCE,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(STRINGS, min_size=AT_ONCE, max_size=AT_ONCE))
    def send(strings: list[str]) -> None:
        for response in asyncio.run(asked(gate, strings)):
            seen[response.status_code] = seen.get(response.status_code, 0) + 1
            assert response.status_code in (200, 404, 413, 422), (response.request.content, response.text)
            if response.status_code not in (200, 404):
                assert response.headers["content-type"] == "application/problem+json"
                assert response.json()["detail"]
        memory.append(resident_mb())

    send()
    gc.collect()
    print(
        f"{sum(seen.values())} answers by status {seen}; memory {memory[len(memory) // 2]:.0f} to {memory[-1]:.0f} MB"
    )
    assert sum(seen.values()) >= 1.9 * n_strings
    assert seen[200] > 0.1 * n_strings
    assert seen[422] > 0.1 * n_strings
    assert memory[-1] - memory[len(memory) // 2] < MAX_GROWTH_MB


async def asked(gate: ASGIApp, strings: list[str]) -> list[httpx.Response]:
    """Ask for a prediction and a drawing of each string, all at once."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://test") as client:
        asking = []
        for smiles in strings:
            condition = {"smiles": smiles, "cell": "SIMC001", "dose_um": 10.0, "time_h": 24.0}
            body = json.dumps({"conditions": [condition], "n_samples": 1, "steps": 2, "return": "mean"})
            asking.append(client.post("/v1/predict", content=body, headers={"content-type": "application/json"}))
            if len(smiles) < 50_000:
                asking.append(client.get(f"/v1/compounds/{quote(smiles, safe='')}"))
        return list(await asyncio.wait_for(asyncio.gather(*asking), LIMIT_S))


def resident_mb() -> float:
    """Resident memory of this process."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) / 1000
