"""The plan as people read it."""

import pytest

from instsel.planner.estimate import format_bytes, format_seconds, plan_table
from instsel.study.estimates import StageEstimate

GB = 10**9
STAGES = [
    StageEstimate("prepare", done=True),
    StageEstimate("features", 3150, 63_000, 630, 90.0, 2 * GB, 2, disk=4_434_804_736),
    StageEstimate("select", 3000, seconds=0.4, memory=GB),
]


def test_every_stage_has_a_line_and_all_of_them_a_sum():
    assert plan_table(STAGES) == (
        "| stage | rows | tokens | batches | time | memory | disk |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| prepare | – | – | – | done | – | – |\n"
        "| features | 3,150 | 63,000 | 630 | 1.5 min | 2 x 2.0 GB | 4.4 GB |\n"
        "| select | 3,000 | – | – | < 1 s | 1.0 GB | 0 B |\n"
        "| all | – | – | – | 1.5 min | 4.0 GB | 4.4 GB |\n"
    )


def test_gpus_have_a_column_where_there_are_any():
    table = plan_table([*STAGES, StageEstimate("evaluate", 1, 1, 1, None, GB, gpu_memory=3 * GB, gpu_total=4 * GB)])
    assert "| memory | GPU memory | disk |" in table
    assert "| evaluate | 1 | 1 | 1 | – | 1.0 GB | 3.0 GB | 0 B |" in table
    assert "| all | – | – | – | > 1.5 min | 4.0 GB | 3.0 GB | 4.4 GB |" in table


def test_cost_has_a_column_where_it_is_known():
    table = plan_table([*STAGES, StageEstimate("evaluate", 1, 1, 1, None, GB)], cost_a_second=0.02)
    assert "| disk | cost |" in table
    assert "| prepare | – | – | – | done | – | – | – |" in table
    assert "| 4.4 GB | 1.80 |" in table
    assert "| evaluate | 1 | 1 | 1 | – | 1.0 GB | 0 B | – |" in table
    # 90 s and 0.4 s, and who knows how many.
    assert "| 4.4 GB | > 1.81 |" in table


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (17_740_000_000, "17.7 GB"), (110 * GB, "110 GB"), (3e12, "3.0 TB")],
)
def test_bytes_are_written_in_powers_of_ten(number, text):
    assert format_bytes(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "< 1 s"),
        (40, "40 s"),
        (89, "89 s"),
        (240, "4.0 min"),
        (1800, "30 min"),
        (8280, "2.3 h"),
        (200_000, "2.3 days"),
    ],
)
def test_times_are_written_in_the_unit_that_suits_them(seconds, text):
    assert format_seconds(seconds) == text
