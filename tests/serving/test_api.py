"""The HTTP API around a real small model in this process: answers, errors, limits, and the same bits as Python."""

import json
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pyarrow as pa
import pytest
from fastapi import FastAPI

from ldm_ray.prediction.predictor import Predictor, Query
from ldm_ray.serving.app import create_app
from ldm_ray.serving.local import LocalBackend
from ldm_ray.serving.served import ServedModel
from tests.bundles import SMILES, random_bundle
from tests.conftest import World
from tests.serving.asking import CONDITION, LIMITS, ask, get, post

OTHER = "CN1CCN(c2ccc(F)cc2)CC1"


def test_an_answer_has_the_bits_of_python(app: FastAPI, served: ServedModel) -> None:
    conditions = [CONDITION, CONDITION | {"smiles": "CCO", "dose_um": 0.5}, CONDITION | {"time_h": 6}]
    body = {"conditions": conditions, "seed": 5, "n_samples": 6, "steps": 4, "return": "draws"}
    as_json, as_arrow = ask(app, post(body), post(body, accept="application/vnd.apache.arrow.stream"))
    assert (as_json.status_code, as_arrow.status_code) == (200, 200), as_json.text
    queries = [Query(c["smiles"], c["dose_um"], c["time_h"], c["cell"]) for c in conditions]  # type: ignore[arg-type]
    alone = Predictor(served.predictor.bundle).predict(queries, 6, 4, seed=5, n_draws=6)
    answer, table = as_json.json(), pa.ipc.open_stream(as_arrow.content).read_all()
    assert answer["genes"] == list(alone.genes)
    for number, row in enumerate(answer["predictions"]):
        for name in ("mean", "std", "basal", "draws"):
            wanted = getattr(alone, name)[number]
            np.testing.assert_array_equal(np.array(row[name], dtype=np.float32), wanted)
            np.testing.assert_array_equal(np.array(table[name][number].as_py(), np.float32), wanted.reshape(-1))
        assert row["notes"] == alone.notes[number]
    head = json.loads(table.schema.metadata[b"answer"])
    assert (head["seed"], head["n_samples"], head["sampler"]["steps"]) == (5, 6, 4)
    assert head["bundle"] == answer["bundle"] == served.bundle_id


def test_genes_and_what_is_returned_can_be_chosen(app: FastAPI, served: ServedModel) -> None:
    symbols = [served.genes[7]["symbol"], served.genes[3]["symbol"]]
    body = {"conditions": [CONDITION], "genes": symbols, "return": "mean"}
    few, all_of_them = (r.json() for r in ask(app, post(body), post({"conditions": [CONDITION]})))
    assert few["genes"] == symbols
    (row,) = few["predictions"]
    assert set(row) == {"parent_smiles", "mean", "similarity", "out_of_domain", "notes"}
    assert row["mean"] == [all_of_them["predictions"][0]["mean"][i] for i in (7, 3)]
    assert set(all_of_them["predictions"][0]) == {*row, "std", "basal"}


def test_a_profile_may_stand_for_a_cell_line(app: FastAPI, served: ServedModel) -> None:
    basal = np.linspace(4, 12, 978, dtype=np.float32)
    body = {"conditions": [{**CONDITION, "cell": None, "basal": basal.tolist()}], "seed": 1}
    (response,) = ask(app, post(body))
    alone = served.predictor.predict([Query(SMILES, 10.0, 24.0, basal=basal)], seed=1)
    got = response.json()["predictions"][0]
    np.testing.assert_array_equal(np.array(got["mean"], np.float32), alone.mean[0])
    assert "basal profile given" in got["notes"]


def test_a_cell_line_may_be_written_otherwise(app: FastAPI) -> None:
    exact, other = (
        response.json()["predictions"][0]
        for response in ask(
            app, *(post({"conditions": [CONDITION | {"cell": cell}]}) for cell in ("SIMC001", "simc-001"))
        )
    )
    assert other["mean"] == exact["mean"]
    assert "cell line 'simc-001' read as SIMC001" in other["notes"]


@pytest.mark.parametrize(
    ("body", "field", "detail"),
    [
        ({}, "conditions", "Field required"),
        ({"conditions": []}, "conditions", "at least 1 item"),
        ({"conditions": [CONDITION] * 9}, "conditions", "at most 8 conditions per request; got 9"),
        ({"conditions": [CONDITION], "n_sample": 3}, "n_sample", "Extra inputs are not permitted; got 3"),
        ({"conditions": [CONDITION], "n_samples": 65}, "n_samples", "n_samples must be at most 64; got 65"),
        ({"conditions": [CONDITION], "n_samples": 64, "return": "draws"}, "n_samples", "at most 40 draws per request"),
        ({"conditions": [CONDITION] * 2, "n_samples": 50, "steps": 50}, "n_samples", "at most 4000; got 2 x 50 x 50"),
        ({"conditions": [CONDITION], "steps": 51}, "steps", "steps must be between 2 and 50; got 51"),
        ({"conditions": [CONDITION], "genes": ["NOPE"]}, "genes.0", "gene 'NOPE' is not one of /v1/genes"),
        ({"conditions": [CONDITION], "return": "all"}, "return", "Input should be 'summary', 'mean' or 'draws'"),
        ({"conditions": [CONDITION | {"dose_um": -1}]}, "conditions.0.dose_um", "greater than 0; got -1"),
        ({"conditions": [CONDITION, CONDITION | {"smiles": "C1CC"}]}, "conditions.1.smiles", "RDKit can parse"),
        ({"conditions": [CONDITION | {"smiles": "*OCCO*"}]}, "conditions.0.smiles", "must be a whole molecule"),
        ({"conditions": [CONDITION | {"smiles": f"{SMILES}.{OTHER}"}]}, "conditions.0.smiles", "ask for each alone"),
        ({"conditions": [CONDITION | {"smiles": "C" * 2001}]}, "conditions.0.smiles", "at most 2000 characters"),
        ({"conditions": [CONDITION | {"cell": "SIMC01"}]}, "conditions.0.cell", "near matches: SIMC001"),
        ({"conditions": [CONDITION | {"cell": None}]}, "conditions.0", "give either cell or basal"),
        ({"conditions": [CONDITION | {"cell": None, "basal": [1.0]}]}, "conditions.0.basal", "978 finite log2 values"),
        (b"{not json", "body", "no JSON: Expecting property name"),
        (b'{"conditions": [{"smiles": "C", "cell": "A", "dose_um": NaN, "time_h": 1}]}', "conditions.0.dose_um", ""),
    ],
)
def test_errors_are_problem_details_that_name_the_field(app: FastAPI, body: object, field: str, detail: str) -> None:
    (response,) = ask(app, post(body, **{"x-request-id": "mine-7"}))
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["errors"][0]["field"] == field, problem
    assert detail in problem["errors"][0]["detail"]
    assert problem["request_id"] == response.headers["x-request-id"] == "mine-7"
    assert len(response.content) < 4000


def test_an_unknown_model_and_an_unknown_path(app: FastAPI) -> None:
    named, path = ask(app, post({"conditions": [CONDITION], "model": "other"}), get("/v2"))
    assert (named.status_code, path.status_code) == (404, 404)
    assert "model 'other' is not one of demo" in named.json()["detail"]
    assert path.json()["title"] == "Not Found"


def test_bodies_tokens_and_ids(app: FastAPI) -> None:
    told: list[tuple[str, int]] = []

    def see(route: str, status: int, _: float) -> None:
        told.append((route, status))

    large = post(b" " * 60_001)
    chunked = httpx.Request("POST", "http://test/v1/predict", content=chunks(70_000))
    first, second, fine = ask(
        app,
        large,
        chunked,
        get("/healthz", **{"x-request-id": "a\tb"}),
        seen=lambda route, status, _: told.append((route, status)),
    )
    assert (first.status_code, second.status_code, fine.status_code) == (413, 413, 200)
    assert "at most 60000 bytes" in first.json()["detail"]
    assert len(fine.headers["x-request-id"]) == 32
    assert ("/healthz", 200) in told
    none, wrong, right, health = ask(
        app, get("/v1/models"), get("/v1/models", authorization="Bearer x"),
        get("/v1/models", authorization="Bearer secret"), get("/healthz"), token="secret",
    )  # fmt: skip
    assert [r.status_code for r in (none, wrong, right, health)] == [401, 401, 200, 200]
    assert none.headers["www-authenticate"] == "Bearer"


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(0, size, 1000):
        yield b" " * 1000


def test_what_is_served_can_be_asked(app: FastAPI, served: ServedModel) -> None:
    paths = ["/v1/models", "/v1/model", "/v1/cells", "/v1/genes", "/v1/compounds/OC(=O)c1ccccc1OC(C)=O", "/readyz"]
    models, model, cells, genes, compound, ready = (r.json() for r in ask(app, *map(get, paths)))
    assert models == ["demo"]
    assert model["sampler"]["kind"] == "ancestral"
    assert {"cell": "SIMC001", "times_h": [6.0, 24.0]} in cells
    assert len(genes) == 978
    assert compound["smiles"] == SMILES
    assert compound["drawing"].startswith("<svg")
    assert 0 <= compound["similarity"] <= 1
    assert ready == {"status": "ready"}
    (bad,) = ask(app, get("/v1/compounds/C1CC"))
    assert bad.status_code == 422
    salt, mixture = (r.json() for r in ask(app, get("/v1/compounds/CCN.Cl"), get(f"/v1/compounds/{SMILES}.{OTHER}")))
    assert (salt["parent_smiles"], salt["flag"], salt["left_out"]) == ("CCN", "", ["hydrochloric acid"])
    assert mixture["flag"] == "mixture"


def test_too_much_at_once_is_503_with_retry_after_and_every_taken_answer_is_right(world: World) -> None:
    model = ServedModel("small", random_bundle(world), max_waiting=3000)
    backend = LocalBackend({"small": model})
    app = create_app(lambda: backend, LIMITS)
    responses = ask(app, *(post({"conditions": [CONDITION], "n_samples": 50, "steps": 50}) for _ in range(20)))
    statuses = sorted({r.status_code for r in responses})
    assert statuses == [200, 503]
    for response in responses:
        if response.status_code == 503:
            assert int(response.headers["retry-after"]) >= 1
        else:
            assert response.json()["predictions"] == responses[0].json()["predictions"]
    model.close()
