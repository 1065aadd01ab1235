"""The dashboard names metrics that exist, shows all of ours, and asks the data source that is chosen."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import ray

from instsel.runtime.observability import COUNTERS, GAUGES, TAGS

METRIC = re.compile(r"\bray_\w+")
OURS = {f"ray_{name}_total" for name in COUNTERS} | {f"ray_{name}" for name in GAUGES}


@pytest.fixture
def dashboard(cluster: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((cluster / "grafana" / "dashboard.json").read_text())
    return made


def expressions(dashboard: dict[str, Any]) -> list[str]:
    variables = [one["definition"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    return variables + [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_every_metric_is_one_of_ours_or_of_rays_own_dashboard(dashboard: dict[str, Any]) -> None:
    panels = Path(ray.__file__).parent / "dashboard/modules/metrics/dashboards/default_dashboard_panels.py"
    known = OURS | set(METRIC.findall(panels.read_text()))
    named = {name for expression in expressions(dashboard) for name in METRIC.findall(expression)}
    assert "ray_node_gpus_utilization" in named
    assert named <= known


def test_all_of_our_metrics_are_shown(dashboard: dict[str, Any]) -> None:
    shown = {name for expression in expressions(dashboard) for name in METRIC.findall(expression)}
    assert shown >= OURS


def test_labels_are_those_that_the_metrics_have(dashboard: dict[str, Any]) -> None:
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            ours = "instsel" in target["expr"]
            labels = {*TAGS, "WorkerId"} if ours else {"instance", "GpuIndex", "Location"}
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            grouped = {label for part in re.findall(r"by \(([^)]+)\)", target["expr"]) for label in part.split(", ")}
            assert shown and shown | grouped <= labels, panel["title"]
            assert ("$study" in target["expr"]) == ours, panel["title"]


def test_a_counter_is_shown_by_its_growth_and_a_gauge_as_it_is(dashboard: dict[str, Any]) -> None:
    for expression in expressions(dashboard)[1:]:
        for name in METRIC.findall(expression):
            grows = re.search(rf"(rate|increase)\({name}\b", expression) is not None
            assert grows == (name in OURS and name.endswith("_total")), expression


def test_every_panel_asks_the_chosen_data_source(dashboard: dict[str, Any]) -> None:
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert variables["datasource"]["query"] == "prometheus"
    asked = [variables["study"], *dashboard["panels"]]
    asked += [target for panel in dashboard["panels"] for target in panel["targets"]]
    assert {json.dumps(one["datasource"]) for one in asked} == {'{"type": "prometheus", "uid": "${datasource}"}'}


def test_panels_have_ids_of_their_own_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        assert (
            one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        )  # fmt: skip
