"""Prometheus metrics: the pace of a worker by a fake clock, and the dashboard's names."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm_ray.cluster.metrics import COUNTERS, GAUGES, HISTOGRAMS, PREFIX
from ldm_ray.cluster.serve.app import GAUGES as SAMPLER_GAUGES
from ldm_ray.training.pace import LATEST, Pace, PacedSource
from ldm_ray.training.rows import Rows

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "ldm_ray.json"
NAME = re.compile(r"\bray_\w+")


def exported() -> set[str]:
    """Names as Ray exports them."""
    names = {*GAUGES, *(f"{name}_total" for name in COUNTERS)}
    names |= {f"{name}_{end}" for name in HISTOGRAMS for end in ("bucket", "sum", "count")}
    return {f"ray_{PREFIX}{name}" for name in names}


def asked(dashboard: dict[str, Any]) -> set[str]:
    """Names that a dashboard's panels and variables use."""
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries += [variable["definition"] for variable in dashboard["templating"]["list"] if "definition" in variable]
    return {name for query in queries for name in NAME.findall(query)}


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text()))


def test_the_dashboard_asks_for_what_is_exported_and_leaves_nothing_out(dashboard: dict[str, Any]) -> None:
    assert asked(dashboard) - exported() == set()
    shown = {name.removesuffix("_bucket").removesuffix("_count") for name in asked(dashboard)}
    assert {f"ray_{PREFIX}{name}" for name in (*GAUGES, *(f"{name}_total" for name in COUNTERS), *HISTOGRAMS)} == shown


@pytest.mark.parametrize(
    "wrong", ["ray_ldm_ray_train_wells_per_s", "ray_ldm_ray_profiles_finished", "ray_ldm_rows_busy"]
)
def test_a_misspelt_name_is_found(wrong: str, dashboard: dict[str, Any]) -> None:
    panel = {"targets": [{"expr": f'sum by (run) (rate({wrong}{{run=~"$run"}}[5m]))'}]}
    assert asked(dashboard | {"panels": [*dashboard["panels"], panel]}) - exported() == {wrong}


def test_every_panel_has_a_unit_a_meaning_and_the_chosen_prometheus(dashboard: dict[str, Any]) -> None:
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert rows == ["Training", "Bulk prediction", "Serving"]
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["description"], panel["title"]
            for target in panel["targets"]:
                assert target["datasource"]["uid"] == "${datasource}"
                assert set(re.findall(r"\$([a-z]+)", target["expr"])) <= names


def test_tags_that_the_dashboard_asks_for_are_there(dashboard: dict[str, Any]) -> None:
    tags = {f"{PREFIX}{name}": set(told[1]) for name, told in (*GAUGES.items(), *COUNTERS.items(), *HISTOGRAMS.items())}
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    for expression in expressions:
        for name, selected in re.findall(r"ray_(\w+)\{(\w+)=", expression):
            own = tags[re.sub(r"_(total|bucket|count)$", "", name)]
            assert selected in own, expression
            by = re.search(r"by \(([^)]*)\)", expression)
            assert not by or set(by[1].split(", ")) <= own | {"le"}, expression


def test_a_sampler_tells_gauges_that_exist() -> None:
    assert set(SAMPLER_GAUGES) < set(GAUGES)


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Slow:
    """A source of batches of 8 wells, each after a delay."""

    def __init__(self, clock: Clock, waits_s: float, steps: int) -> None:
        self.clock, self.waits_s, self.steps = clock, waits_s, steps

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Rows]:
        zeros = torch.zeros(8, dtype=torch.int64)
        for _ in range(first_step, self.steps):
            self.clock.now += self.waits_s
            yield Rows(keys=zeros, basal=zeros, compound=zeros, dose_um=zeros.float(), time_h=zeros.float())


def test_pace_of_an_epoch() -> None:
    """3 s of work and 1 s of waiting per step; validation between epochs does not count."""
    clock = Clock()
    pace, slow = Pace(clock), Slow(clock, 1.0, 5)
    source = PacedSource(slow, pace)  # type: ignore[arg-type]
    assert pace.of_epoch() is None
    for waits_s, first_step in ((1.0, 0), (9.0, 3)):
        slow.waits_s = waits_s
        for rows in source.batches(0, first_step):
            assert len(rows) == 8
            clock.now += 3.0
        found = pace.of_epoch()
        assert found is not None
        assert (found.wells_per_s, found.data_wait) == (8 / (waits_s + 3), waits_s / (waits_s + 3))
        clock.now += 1000.0


def test_the_latest_pace_forgets() -> None:
    """Called once per step, it is the pace of the last steps; None at the first step."""
    clock = Clock()
    pace, slow = Pace(clock), Slow(clock, 1.0, 3 * LATEST)
    seen = []
    for step, _ in enumerate(pace.timed(slow.batches(0))):
        clock.now += 1.0
        seen.append(pace.latest())
        slow.waits_s = 1.0 if step < 2 * LATEST else 3.0
    assert seen[0] is None
    assert [found.data_wait for found in seen[1 : LATEST + 1] if found] == [0.5] * LATEST
    assert seen[-1] is not None
    assert (seen[-1].data_wait, seen[-1].wells_per_s) == pytest.approx((0.75, 2.0), rel=0.1)
