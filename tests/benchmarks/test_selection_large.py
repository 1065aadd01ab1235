"""The benchmark of a large matrix, on a small one: it was left behind when what it reads with was renamed."""

import pytest

from benchmarks.selection_large import main


def test_bug_a_matrix_of_blocks_is_laid_out_and_chosen_from(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--shape", "2500", "20", "--budget", "10"])
    told = capsys.readouterr().out
    assert "2,500 x 20 float32, 0.0 GB; 10 picks." in told
    assert [line.split(" | ")[0] for line in told.splitlines() if line.startswith("| ")][2:] == [
        "| lay out",
        "| less",
        "| bids",
    ]
