"""The API around a real small model in this process."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from ldm_ray.serving.app import create_app
from ldm_ray.serving.local import LocalBackend
from ldm_ray.serving.served import ServedModel
from tests.bundles import random_bundle
from tests.conftest import World
from tests.serving.asking import LIMITS


@pytest.fixture(scope="module")
def served(world: World) -> Iterator[ServedModel]:
    model = ServedModel("demo", random_bundle(world), max_waiting=100_000)
    yield model
    model.close()


@pytest.fixture(scope="module")
def app(served: ServedModel) -> FastAPI:
    backend = LocalBackend({"demo": served})
    return create_app(lambda: backend, LIMITS)
