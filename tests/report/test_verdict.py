import io
import json

from rich.console import Console

from instsel.console import Terminal
from instsel.report.verdict import tell_verdicts
from instsel.report.write import write_report


def told(place, as_json: bool = False, width: int = 120) -> str:
    stream = io.StringIO()
    found, page = write_report([str(place)])
    tell_verdicts(found, page, Terminal(Console(file=stream, width=width)), as_json)
    return stream.getvalue()


def test_the_terminal_has_methods_in_order_of_their_mean_and_the_page(made):
    lines = told(made).splitlines()
    names = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert [name for name in names if name] == ["smart", "bids", "random", "base"]
    assert any("1.700" in line for line in lines) and any("−1.00 [−1.00, −1.00]" in line for line in lines)
    assert lines[-1].strip() == f"report: {made}/report/report.html"


def test_on_a_narrow_terminal_targets_are_named_where_a_method_differs(made):
    lines = told(made, width=70).splitlines()
    rows = {cells[1].strip(): cells for line in lines if len(cells := line.split("│")) == 7}
    assert [cell.strip() for cell in rows["smart"][2:6]] == ["1.700", "−1.00 [−1.00, −1.00]", "2 of 2", ""]
    assert rows["base"][5].strip() == "sums, towns" and rows["random"][4].strip() == ""
    assert max(map(len, lines)) <= 70 or "report:" in lines[-1]


def test_bug_names_of_methods_had_no_room_on_a_very_narrow_terminal(made):
    lines = told(made, width=40).splitlines()
    rows = {cells[1].strip(): cells[2].strip() for line in lines if len(cells := line.split("│")) == 4}
    assert rows["smart"] == "1.700" and set(rows) == {"smart", "bids", "random", "base"}


def test_json_is_all_that_is_printed(made):
    found = json.loads(told(made, as_json=True))
    assert found["page"] == f"{made}/report/report.html"
    assert found["studies"][0]["best"] == "smart"


def test_what_is_missing_and_what_was_changed_is_told(make, tmp_path):
    place = make(tmp_path / "half", until="select")
    manifest = json.loads((place / "prepare" / "manifest.json").read_text())
    (place / "prepare" / "manifest.json").write_text(json.dumps({**manifest, "config": {"more": 1}}))
    text = told(place)
    assert "not finished: finetune/random is missing, and " in text and "Nothing is evaluated yet" in text
    assert "warning: prepare/manifest.json was edited" in text
