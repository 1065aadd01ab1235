"""The benchmark of the int8 store, on a small study."""

from benchmarks.int8_store import main


def test_the_table_compares_both_stores_with_the_study(finished_study, capsys):
    main([finished_study["out"], "--budget", "0.25"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "24 pool rows x 8 validation rows, 2 checkpoints, d = 64, 6 chosen"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][2:]
    assert [row[:2] for row in rows] == [["float16 again", "132"], ["int8", "72"]]
    largest = [float(row[2]) for row in rows]
    assert 0 < largest[0] < largest[1] < 0.05
    assert all(cell.endswith(")") and " of 6 (" in cell for row in rows for cell in row[5:])
