"""Continuous batching: the same bits as alone, whatever arrives when; bounded; and no request can end it."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
import torch

from ldm_ray.errors import BundleError
from ldm_ray.models.generate import Samples
from ldm_ray.prediction.predictor import Predictions, Predictor, Query
from ldm_ray.serving.engine import SamplerEngine
from ldm_ray.serving.errors import OverloadedError
from tests.bundles import random_bundle
from tests.conftest import World

FIELDS = ("mean", "std", "draws", "basal", "similarity")


@pytest.fixture(scope="module")
def predictor(world: World) -> Predictor:
    return Predictor(random_bundle(world, "predict.rows_per_batch=16"))


def queries(count: int) -> list[Query]:
    return [Query("C" * (1 + i % 7) + "O", 0.5 + i, (6.0, 24.0)[i % 2], f"SIMC00{1 + i % 3}") for i in range(count)]


def asked(
    predictor: Predictor, engine: SamplerEngine, query: Query, samples: int, steps: int, seed: int
) -> Predictions:
    prepared = [predictor.reader.prepare(query)]
    future = engine.submit(prepared, predictor.sampling(samples, steps, seed, min(2, samples)))
    return predictor.predictions(prepared, future.result(timeout=60))


def test_requests_of_all_kinds_at_once_get_the_bits_they_get_alone(predictor: Predictor) -> None:
    engine = SamplerEngine(predictor, max_waiting=10**9)
    kinds = [(1, 5), (3, 2), (40, 4), (2, 50), (16, 3)]
    work = [(query, *kinds[i % 5], i) for i, query in enumerate(queries(30))]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda item: asked(predictor, engine, *item), work))
    for (query, samples, steps, seed), got in zip(work, found, strict=True):
        alone = predictor.predict([query], samples, steps, seed, n_draws=min(2, samples))
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(got, field), getattr(alone, field), err_msg=field)
    load = engine.load()
    assert load.rows_done == sum(item[1] for item in work)
    assert (load.busy, load.waiting) == (0, 0)
    assert load.passes < sum(item[1] * item[2] for item in work) / 4, "rows did not share passes"
    engine.stop()


def test_a_short_request_is_not_held_up_by_the_end_of_a_long_one(predictor: Predictor) -> None:
    """A request of few steps returns while one of many steps, started before it, is still running."""
    engine = SamplerEngine(predictor, max_waiting=10**9)
    long = engine.submit([predictor.reader.prepare(queries(1)[0])], predictor.sampling(4, 50, 0))
    short = engine.submit([predictor.reader.prepare(queries(2)[1])], predictor.sampling(4, 2, 0))
    ended: list[str] = []
    long.add_done_callback(lambda _: ended.append("long"))
    short.add_done_callback(lambda _: ended.append("short"))
    long.result(timeout=60)
    assert ended == ["short", "long"]
    engine.stop()


def test_more_than_may_wait_is_refused_and_then_taken_again(predictor: Predictor) -> None:
    engine = SamplerEngine(predictor, max_waiting=3000)
    prepared, how = [predictor.reader.prepare(queries(1)[0])], predictor.sampling(20, 50, 0)
    taken, waits = list[Future[Samples]](), list[float]()
    for _ in range(40):
        try:
            taken.append(engine.submit(prepared, how))
        except OverloadedError as error:
            waits.append(error.retry_after_s)
    assert len(waits) > 20
    assert min(waits) >= 1.0
    results = [future.result(timeout=60) for future in taken]
    assert all(torch.equal(result.mean, results[0].mean) for result in results)
    last = engine.submit(prepared, how)
    assert isinstance(last.result(timeout=60), Samples)
    engine.stop()
    with pytest.raises(OverloadedError, match="being unloaded"):
        engine.submit(prepared, how)


def test_a_query_larger_than_the_queue_is_taken_when_nothing_waits(predictor: Predictor) -> None:
    engine = SamplerEngine(predictor, max_waiting=10)
    future = engine.submit([predictor.reader.prepare(queries(1)[0])], predictor.sampling(50, 10, 0))
    assert future.result(timeout=60).mean.shape == (1, 978)
    engine.stop()


def test_cancelled_and_broken_queries_leave_the_others_alone(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = SamplerEngine(predictor, max_waiting=10**9)
    prepared, how = [predictor.reader.prepare(queries(1)[0])], predictor.sampling(2, 5, 0)
    gate = threading.Event()
    encode = engine._encodings.encode
    calls = []

    def slow(items: object) -> object:
        gate.wait(10)
        calls.append(items)
        if len(calls) == 2:
            raise RuntimeError("an encoder that fails")
        return encode(items)  # type: ignore[arg-type]

    monkeypatch.setattr(engine._encodings, "encode", slow)
    first = engine.submit(prepared, how)
    time.sleep(0.1)  # the thread is in the encoder
    cancelled = engine.submit(prepared, how)
    assert cancelled.cancel()
    broken = engine.submit(prepared, how)
    gate.set()
    assert first.result(timeout=30).mean.shape == (1, 978)
    with pytest.raises(RuntimeError, match="an encoder that fails"):
        broken.result(timeout=30)
    after = engine.submit(prepared, how)
    assert torch.equal(after.result(timeout=30).mean, first.result().mean)
    assert engine.load().waiting == 0
    engine.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failure_of_the_thread_reaches_all_who_wait(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SamplerEngine(predictor, max_waiting=10**9)
    prepared, how = [predictor.reader.prepare(queries(1)[0])], predictor.sampling(40, 5, 0)

    def fail() -> None:
        raise MemoryError("no memory left")

    monkeypatch.setattr(engine._rows, "tick", fail)
    futures = [engine.submit(prepared, how) for _ in range(3)]
    for future in futures[:1]:
        with pytest.raises(MemoryError, match="no memory left"):
            future.result(timeout=30)
    assert all(future.exception(timeout=30) is not None for future in futures)
    assert engine.broken
    with pytest.raises(OverloadedError):
        engine.submit(prepared, how)


def test_who_goes_away_does_not_keep_the_others_waiting(predictor: Predictor) -> None:
    """Samples of a cancelled request that have not started are never made."""
    engine = SamplerEngine(predictor, max_waiting=10**9)
    prepared = [predictor.reader.prepare(query) for query in queries(20)]
    huge = engine.submit(prepared, predictor.sampling(1000, 50, 0))
    while engine.load().passes < 3:
        time.sleep(0.01)
    assert huge.cancel()
    small = engine.submit(prepared[:1], predictor.sampling(2, 3, 0))
    assert small.result(timeout=30).mean.shape == (1, 978)
    engine.stop()
    assert engine.load().waiting == 0
    assert engine.load().row_passes < 20 * 1000 * 50 / 10


def test_a_rival_is_not_served(world: World, predictor: Predictor) -> None:
    class Rival:
        sampler, encodings, bundle = object(), None, type("B", (), {"kind": "prnet"})

    with pytest.raises(BundleError, match="serving needs a bundle of kind 'ldm'; got 'prnet'"):
        SamplerEngine(Rival(), 10)  # type: ignore[arg-type]
