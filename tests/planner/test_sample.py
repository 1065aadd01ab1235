"""What is known of the rows of a planned study."""

import pyarrow as pa

from instsel.planner.sample import group_sizes


def test_groups_have_the_rows_that_a_sample_stands_for():
    first = pa.table({"source": ["a", "a", "b"], "task": ["x", None, "x"]})
    second = pa.table({"source": ["b"], "task": ["x"]})
    groups = group_sizes([(first, 1), (second, 10)])
    assert sorted(groups["source"]) == [2, 11]
    assert sorted(groups["task"]) == [1, 1, 11]
