"""The benchmark of selections that are written, and what it is for: memory that does not grow with the picks."""

import re

from benchmarks.selection_writing import main


def test_fault_14_a_selection_is_written_with_a_part_of_its_rows_in_memory(capsys):
    main(["--rows", "6000", "--share", "1", "--here"])
    text = capsys.readouterr().out
    rows, picks, seconds, more, _ = (cell.strip() for cell in text.strip().splitlines()[-1].strip("|").split("|"))
    assert (rows, picks) == ("6,000", "6,000") and float(seconds) > 0
    # As objects of Python they take 600 MB.
    assert int(more.replace(",", "")) < 400
    assert re.search(r"command: `python -m benchmarks.selection_writing --rows 6000 --share 1 --here`", text)
