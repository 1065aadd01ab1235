"""The benchmark of growing pools, on a small one."""

import json

import pytest

from benchmarks.scale_passes import HEADER, Size, measure
from benchmarks.scale_pool import write_pool


def test_a_pool_is_the_same_every_time_and_has_copies_and_broken_rows(tmp_path):
    for name in ("one", "two"):
        write_pool(tmp_path / name, 1010, 8)
    lines = [line for path in sorted((tmp_path / "one").iterdir()) for line in path.read_text().splitlines()]
    again = [line for path in sorted((tmp_path / "two").iterdir()) for line in path.read_text().splitlines()]
    assert lines == again
    assert (len(lines), len(set(lines))) == (1010, 1005)
    broken = [number for number, line in enumerate(lines) if not line.endswith("}")]
    assert broken == [998]
    assert json.loads(lines[99]) == json.loads(lines[49]) != json.loads(lines[199])


@pytest.mark.long
def test_both_passes_are_watched(tiny_model, tmp_path, ray_session):
    prepared, written = measure(Size(str(tiny_model), 110, 4, 16, 0.0), str(tmp_path))
    assert [line[:3] for line in (prepared, written)] == [["110", "prepare", "32"], ["110", "write", "32"]]
    assert len(prepared) == len(written) == len(HEADER)
    features = tmp_path / "study/features/pool"
    assert len(list(features.glob("*.arrow"))) == 32
    # The driver, as it began and at its highest, and Ray's own processes.
    assert all(0 < int(line[4]) <= int(line[5]) and int(line[7]) > 0 for line in (prepared, written))
