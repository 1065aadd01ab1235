"""What is known of the rows of a planned study."""

import pyarrow as pa

from instsel.planner.sample import group_sizes


def test_groups_have_the_rows_that_a_sample_stands_for():
    one = pa.table({"source": ["a", "a", "b"], "task": ["x", None, "x"]})
    two = pa.table({"source": ["b"], "task": ["x"]})
    found = group_sizes([(one, 1), (two, 10)])
    assert sorted(found["source"]) == [2, 11]
    assert sorted(found["task"]) == [1, 1, 11]
