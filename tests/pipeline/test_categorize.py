"""Stage tag: categories by columns, by clusters and by what an endpoint says, on the finished study's rows."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instsel.config.file import parse_study
from instsel.errors import InputError, StudyError
from instsel.io.store import Folder
from instsel.runtime.errors import clear_errors
from instsel.study.graph import StageGraph
from instsel.study.reader import StudyReader
from tests.studies import run_stage, stage_context

KINDS = {"basket": "sums", "Train": "cities"}


@pytest.fixture
def tagged(tagged_by_actors, in_this_process):
    """`tagged_by_actors` without the seconds that the actors take to start."""
    return tagged_by_actors


@pytest.fixture
def tagged_by_actors(finished_study, tiny_encoder, resources, tmp_path):
    """Runs stage tag with some settings in a folder of its own."""
    shutil.copytree(Path(finished_study["out"]) / "prepare", tmp_path / "prepare")
    keys = {"embedding": {"encoder": str(tiny_encoder), "max_length": 40}}

    def run(**mixture: Any) -> tuple[StageGraph, dict[str, Any]]:
        settings = {"evaluation_rows": 2, "least_rows": 4, **mixture}
        study = parse_study({**finished_study, **keys, "out": str(tmp_path), "mixture": settings}, "test")
        context = stage_context(study, resources, Folder.at(tmp_path))
        if context.stage("embed") in context.stage("categorize").parents and not context.stage("embed").done():
            run_stage(context, "embed")
        with clear_errors():
            run_stage(context, "categorize")
        return context.graph, context.stage("categorize").manifest()["result"]

    return run


def _rows(graph: StageGraph) -> list[dict[str, Any]]:
    return graph["categorize"].folder.read_table("categories.parquet").to_pylist()


def test_tasks_are_of_their_source(tagged):
    _, result = tagged(categories="task")
    assert result["categories"] == sorted(result["categories"])
    assert all("/" in name for name in result["categories"])
    assert sum(size["rows"] for size in result["sizes"].values()) == 24


def test_small_categories_count_to_other_and_are_told(tagged, capsys):
    with pytest.raises(InputError, match="mixture: 0 of 3 categories have 9 rows or more"):
        tagged(categories="source", least_rows=9)


def test_clusters_are_named_and_hold_every_row(tagged):
    graph, result = tagged(categories={"by": "clusters", "count": 2})
    assert len(result["categories"]) == 2
    rows = _rows(graph)
    assert {row["category"] for row in rows} == set(result["categories"]) and len(rows) == 24
    for number in range(2):
        held = graph["categorize"].folder.read_table(f"evaluation/{number:04d}.parquet")
        assert held["id"].to_pylist() == sorted(
            row["id"] for row in rows if row["held"] and row["category"] == result["categories"][number]
        )
    assert _rows(tagged(categories={"by": "clusters", "count": 2})[0]) == rows


def test_validation_rows_count_for_the_category_nearest_to_them(tagged):
    graph, result = tagged(categories="source", importance="targets")
    matrix, own, targets = StudyReader(graph.folder).embeddings(), *StudyReader(graph.folder).validation_embeddings()
    category = {row["id"]: row["category"] for row in _rows(graph)}
    unit = matrix.values / np.linalg.norm(matrix.values, axis=1, keepdims=True)
    centres = {
        name: np.mean([v for v, row in zip(unit, matrix.ids, strict=True) if category[row] == name], axis=0)
        for name in result["categories"]
    }
    for vector, target in zip(own, targets, strict=True):
        cosines = {name: vector @ centre / np.linalg.norm(centre) for name, centre in centres.items()}
        assert result["validation"][target].get(max(cosines, key=cosines.get), 0) > 0
    assert {target: sum(counts.values()) for target, counts in result["validation"].items()} == {"sums": 4, "cities": 4}


def _label(prompt: str) -> str:
    return next((label for word, label in KINDS.items() if word in prompt), "letters")


def _endpoint(endpoint, **changes):
    return {"by": "endpoint", "url": endpoint.url, "model": "m", "labels": ["sums", "cities", "letters"], **changes}


def test_model_behind_an_endpoint_names_the_categories(tagged_by_actors, endpoint, ray_session):
    endpoint.tag(_label)
    graph, result = tagged_by_actors(categories=_endpoint(endpoint, rows_per_request=5))
    assert result["categories"] == ["cities", "letters", "sums"]
    assert result["untagged"] == {}
    assert len(endpoint.requests) == 6  # three shards of eight rows, five rows a request
    (answers,) = (graph.folder / "answers").names()
    assert len((graph.folder / "answers" / answers).names()) == 3


def test_bug_other_sizes_of_categories_asked_the_endpoint_again(tagged, endpoint, ray_session):
    endpoint.tag(_label)
    tagged(categories=_endpoint(endpoint))
    asked = len(endpoint.requests)
    tagged(categories=_endpoint(endpoint), evaluation_rows=3, least_rows=5)
    assert len(endpoint.requests) == asked


def test_rows_without_a_usable_answer_count_to_other_with_the_reason(tagged, endpoint, ray_session, capsys):
    endpoint.tag(lambda prompt: "poems" if "basket" in prompt else _label(prompt))
    graph, result = tagged(categories=_endpoint(endpoint))
    assert result["categories"] == ["cities", "letters"]
    assert sum(result["untagged"].values()) == 8
    assert sum(row["category"] == "other" for row in _rows(graph)) == 8
    assert "8 rows counted to other" in capsys.readouterr().out


def test_free_tags_are_merged_by_the_encoder(tagged, endpoint, ray_session):
    endpoint.tag(_label)
    # To an encoder that learned nothing all texts are alike.
    with pytest.raises(InputError, match="1 of 1 categories have 4 rows or more, and a mixture needs two"):
        tagged(categories=_endpoint(endpoint, labels=None, count=2))


def test_endpoint_that_is_down_keeps_what_was_tagged(tagged, endpoint, ray_session):
    endpoint.tag(_label)
    endpoint.send("{}", status=500)
    settings = _endpoint(endpoint, attempts=1, requests_at_once=1, timeout=5)
    with pytest.raises(StudyError, match="run again"):
        tagged(categories=settings)
    asked = len(endpoint.requests)
    endpoint._replies = endpoint._replies[:1]
    graph, result = tagged(categories=settings)
    assert result["categories"] == ["cities", "letters", "sums"]
    assert len(endpoint.requests) - asked == 2


def test_key_is_sent_and_written_nowhere(tagged, endpoint, ray_session, monkeypatch, tmp_path):
    with pytest.raises(InputError, match="key_variable: TAG_KEY is not set"):
        tagged(categories=_endpoint(endpoint, key_variable="TAG_KEY"))
    monkeypatch.setenv("TAG_KEY", "sk-secret-of-the-test")
    endpoint.tag(_label)
    tagged(categories=_endpoint(endpoint, key_variable="TAG_KEY"))
    assert all(request["headers"]["authorization"] == "Bearer sk-secret-of-the-test" for request in endpoint.requests)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any(b"sk-secret" in path.read_bytes() for path in files)
