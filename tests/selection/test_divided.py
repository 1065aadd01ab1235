"""Data of groups of rows: the rows' own, by their numbers, laid out once for all groups."""

import numpy as np
import pyarrow as pa
import pytest

from instsel.io import matrix
from instsel.selection import method_data
from instsel.selection.method_data import EmbeddingData, IndexData, InfluenceData, LikelihoodData

ROWS = 30
VALUES = np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32)
IDS = [f"row{row}" for row in range(ROWS)]
COLUMNS = pa.table({"id": list("abcd"), "target": ["t"] * 4, "subtask": ["t"] * 4})


def labels_of(by):
    return pa.array([f"{by}{row % 4}" for row in range(ROWS)]).dictionary_encode()


DATA = {
    "index": IndexData(IDS, np.arange(ROWS), np.arange(ROWS) + 1, labels_of=labels_of),
    "likelihood": LikelihoodData(IDS, VALUES[:, 0], VALUES[:, 1], labels_of=labels_of),
    "embedding": EmbeddingData(IDS, VALUES, labels_of=labels_of),
    "influence": InfluenceData(IDS, VALUES, COLUMNS, labels_of=labels_of),
}


@pytest.mark.parametrize("name", DATA)
def test_each_group_has_its_rows(name):
    data, members = DATA[name], [np.arange(ROWS)[number::3] for number in range(3)]
    for part, rows in zip(data.divided(members), members, strict=True):
        assert len(part) == len(rows)
        assert list(part.ids) == [IDS[row] for row in rows]
        assert part.groups("task").to_pylist() == [f"task{row % 4}" for row in rows]
        for key in data.per_row:
            assert np.array_equal(getattr(part, key), getattr(data, key)[rows])


def test_fault_18_groups_that_lie_together_are_views_and_others_are_laid_out_once(monkeypatch):
    data, laid = DATA["embedding"], []
    monkeypatch.setattr(method_data, "stack", lambda *given: laid.append(given[1:]) or matrix.stack(*given))
    together = data.divided([np.arange(10), np.arange(10, 30)])
    assert all(np.shares_memory(part.values, VALUES) for part in together)
    assert laid == []
    apart = data.divided([np.arange(ROWS)[0::2], np.arange(ROWS)[1::2]])
    assert laid == [(ROWS, 4, np.float32)]
    assert apart[0].values.base is not None and apart[0].values.base is apart[1].values.base


def test_fault_18_a_large_layout_is_mapped(monkeypatch):
    monkeypatch.setattr(matrix, "MAPPED_BYTES", 100)
    parts = DATA["influence"].divided([np.arange(ROWS)[0::2], np.arange(ROWS)[1::2]])
    assert all(isinstance(part.values, np.memmap) for part in parts)
    assert np.array_equal(parts[1].values, VALUES[1::2])
