"""Labels of rows as codes: never as wide as the longest, and each with the row that it is of."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from instsel.arrays import labels
from instsel.choice.data import group_labels
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.selection import smart, stratified
from instsel.selection.method_data import IndexData
from instsel.selection.picked import label_reasons
from instsel.study.reader import StudyReader
from tests.studies import small_manifest


@pytest.fixture
def reader(tmp_path):
    """Rows whose tasks are of sources, and names that could be taken for each other's."""
    folder, rows = Folder.at(tmp_path), [("a", None), ("b", ""), ("a/b", "c"), ("a", "b/c"), ("b", "-"), ("a", None)]
    columns = {
        "id": [f"row{row}" for row in range(len(rows))],
        "source": [source for source, _ in rows],
        "task": pa.array([task for _, task in rows], pa.string()),
        "shard": ["00000-000000"] * len(rows),
    }
    (folder / "prepare").write_table("index.parquet", pa.table(columns))
    (folder / "prepare").write_json("manifest.json", small_manifest("prepare", {}))
    table = pa.table({"id": columns["id"][::-1], "category": list("uvwxyz")})
    (folder / "categorize").write_table("categories.parquet", table)
    (folder / "categorize").write_json("manifest.json", small_manifest("categorize", {}))
    return StudyReader(folder)


def test_labels_are_those_of_the_rows_in_any_order(reader):
    ids = ["row3", "row0", "row4", "row2", "row1"]
    assert group_labels(reader, "source", ids).to_pylist() == ["a", "a", "b", "a/b", "b"]
    assert group_labels(reader, "task", ids).to_pylist() == ["a/b/c", "a/-", "b/-", "a/b/c", "b/-"]
    assert group_labels(reader, "category", ids).to_pylist() == list("wzvxy")
    whole = group_labels(reader, "task", [f"row{row}" for row in range(6)])
    assert whole.to_pylist() == ["a/-", "b/-", "a/b/c", "a/b/c", "b/-", "a/-"]
    assert len(set(whole.dictionary.to_pylist())) == len(whole.dictionary) == 3
    with pytest.raises(InputError, match="no pool row 'row9' "):
        group_labels(reader, "task", ["row1", "row9"])


@pytest.mark.parametrize(
    "values", [list("bca"), [], ["ü", "z", "\U0001f600", "z"], ["\ud800", "a"], [3, 1, 3], ["a\0", "a"]]
)
def test_codes_are_positions_among_the_sorted_labels(values):
    unique, positions = labels("labels", values)
    assert unique.tolist() == sorted(set(values))
    assert unique[positions].tolist() == values


def test_codes_of_a_dictionary_that_names_labels_twice_or_not_at_all():
    encoded = pa.DictionaryArray.from_arrays(pa.array([0, 3, 1, 0]), pa.array(["b", "a", "unused", "b"]))
    unique, positions = labels("labels", encoded)
    assert (unique.tolist(), positions.tolist()) == (["a", "b"], [1, 1, 0, 1])
    with pytest.raises(ValueError, match="labels must be labels, got null"):
        labels("labels", encoded.take(pa.array([0, None])))


def test_fault_17_one_long_name_costs_nothing_for_the_other_rows():
    rows = 50_000
    names = pa.array(["t" * 10_000, "short"])
    codes = np.ones(rows, dtype=np.int32)
    codes[7] = 0
    groups = pa.DictionaryArray.from_arrays(pa.array(codes), names)
    data = IndexData(range(rows), codes, codes, labels_of=lambda by: groups)
    tracemalloc.start()
    try:
        selection = stratified.select(data.groups("task"), 100, shares="equal", seed=0)
        reasons = label_reasons("task", data.groups("task"), selection)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # As text of fixed width it would be 2 GB.
    assert peak < 20e6
    assert 7 in selection.indices and reasons.count("task short") == 99


def test_smart_takes_codes_as_it_takes_texts():
    values = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    tasks = [["sums", "cities", "verse"][row % 3] for row in range(40)]
    plain, coded = (smart.select(values, given, 12) for given in (tasks, pa.array(tasks).dictionary_encode()))
    assert plain.indices.tolist() == coded.indices.tolist()
    assert smart.task_gains(values, tasks) == smart.task_gains(values, np.array(tasks))
