from benchmarks.report_page import main


def test_the_report_of_a_made_up_study_is_measured(tmp_path, capsys):
    main(["--rows", "1500", "--columns", "4", "--folder", str(tmp_path), "--out", str(tmp_path / "found.md")])
    line = (tmp_path / "found.md").read_text().splitlines()[-1]
    assert line.startswith("| 1,500 | 2 | 0 MB |")
    assert line in capsys.readouterr().out
