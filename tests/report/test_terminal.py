import io
import json

from rich.console import Console

from instsel.console import Terminal
from instsel.report.html import write_report
from instsel.report.terminal import show_results


def output_for(path, as_json: bool = False, width: int = 120) -> str:
    stream = io.StringIO()
    studies, page = write_report([str(path)])
    show_results(studies, page, Terminal(Console(file=stream, width=width)), json=as_json)
    return stream.getvalue()


def test_the_terminal_has_methods_in_order_of_their_mean_and_the_page(study_folder):
    lines = output_for(study_folder).splitlines()
    names = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert [name for name in names if name] == ["smart", "bids", "random", "base"]
    assert any("1.700" in line for line in lines) and any("−1.00 [−1.00, −1.00]" in line for line in lines)
    assert any("−1.00 [−1.00, −1.00]*" in line for line in lines)
    assert any("does not contain the variance between training seeds" in line for line in lines)
    assert lines[-1].strip() == f"report: {study_folder}/report/report.html"


def test_on_a_narrow_terminal_targets_are_named_where_a_method_differs(study_folder):
    lines = output_for(study_folder, width=70).splitlines()
    rows = {cells[1].strip(): cells for line in lines if len(cells := line.split("│")) == 7}
    assert [cell.strip() for cell in rows["smart"][2:6]] == ["1.700", "−1.00 [−1.00, −1.00]", "2 of 2", ""]
    assert rows["base"][5].strip() == "sums, towns" and rows["random"][4].strip() == ""
    assert max(map(len, lines)) <= 70 or "report:" in lines[-1]


def test_bug_names_of_methods_had_no_room_on_a_very_narrow_terminal(study_folder):
    lines = output_for(study_folder, width=40).splitlines()
    rows = {cells[1].strip(): cells[2].strip() for line in lines if len(cells := line.split("│")) == 4}
    assert rows["smart"] == "1.700" and set(rows) == {"smart", "bids", "random", "base"}


def test_json_is_all_that_is_printed(study_folder):
    values = json.loads(output_for(study_folder, as_json=True))
    assert values["page"] == f"{study_folder}/report/report.html"
    study = values["studies"][0]
    assert study["best"] == "smart" and study["not_told_apart"] == ["smart"]
    assert study["adjusted_p"]["smart"]["mean"] < 0.05


def test_missing_stages_and_edits_are_shown(make_study_folder, tmp_path):
    path = make_study_folder(tmp_path / "half", until="select")
    manifest = json.loads((path / "prepare" / "manifest.json").read_text())
    (path / "prepare" / "manifest.json").write_text(json.dumps({**manifest, "settings": {"more": 1}}))
    text = output_for(path)
    assert "not finished: finetune/random is missing, and " in text and "Nothing is evaluated yet" in text
    assert "warning: prepare/manifest.json was edited" in text
