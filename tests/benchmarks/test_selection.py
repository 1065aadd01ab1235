"""The selection benchmarks on tiny pools: every selector is there, and every line says what was done."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import selection_growth, selection_rivals
from benchmarks.selection import main
from benchmarks.selection_growth import SELECTORS, Growth, measure, table
from benchmarks.selection_pools import make_pool
from instsel.selection import bids, random
from instsel.selection.registry import REGISTRY


def lines(text: str) -> list[list[str]]:
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows][2:]


def test_every_method_of_a_study_is_measured():
    # The other two pick all rows, or none.
    picking = {name for name, method in REGISTRY.methods.items() if method.picks == "budget"}
    assert picking <= {selector.name for selector in SELECTORS}


def test_growth_writes_a_line_a_selector_and_does_without_matplotlib(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    # A collection before each of 38 measurements takes longer than all of them.
    monkeypatch.setattr("benchmarks.timing.gc", SimpleNamespace(collect=lambda: 0))
    assert main(["--rows", "60", "30", "--budget", "5", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "selection-growth.md").read_text(encoding="utf-8")
    told = capsys.readouterr()
    assert text in told.out
    assert "matplotlib is not installed" in told.err
    assert "svg" not in text
    assert "| 30 rows | 60 rows | fitted | stated |" in text
    assert "- command: `python -m benchmarks.selection --rows 60 30 --budget 5" in text
    found = lines(text)
    assert [line[0] for line in found] == [selector.name for selector in SELECTORS]
    assert all(line[2].endswith(" s") and line[3].endswith(" s") and line[-1] == "5" for line in found)


def test_the_plot_has_every_selector(tmp_path: Path):
    pytest.importorskip("matplotlib")
    grown = {"one": Growth({10: [1.0], 100: [2.0]}), "two": Growth({10: [1.0]})}
    selection_growth.plot(grown, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text(encoding="utf-8")
    assert "<!-- one -->" in drawn and "<!-- two -->" in drawn


def test_a_selector_is_not_run_above_its_cap_and_the_line_says_so():
    calls: list[int] = []

    def counted(pool, budget):
        calls.append(len(pool["groups"]))
        return random.select(len(pool["groups"]), budget, seed=0)

    capped = selection_growth.Selector("capped", "rows", "n^2", 2, counted, most=300)
    grown = measure([capped], [100, 300, 301], 5, rounds=2)
    assert calls == [200, 100, 100, 300, 300]
    line = lines(table([capped], grown, [100, 300, 301]))[0]
    assert line[4] == "above the cap of 300"
    assert line[6:8] == ["2", "n^2"]


def test_the_exponent_is_the_slope_in_logarithms():
    assert Growth({10: [0.1, 9.0, 0.2], 100: [20.0], 1000: [2000.0]}).exponent == pytest.approx(2)
    assert Growth({10: [0.1]}).exponent is None


@pytest.mark.parametrize("installed", [True, False])
def test_facility_location_stands_beside_the_libraries_that_are_installed(installed, monkeypatch):
    monkeypatch.setattr(selection_rivals, "find_spec", lambda name: installed and name == "submodlib")
    monkeypatch.setattr(selection_rivals, "version", lambda name: "1.2")
    monkeypatch.setattr(selection_rivals, "_submodlib", lambda x, budget: list(range(budget)))
    text = selection_rivals.against(120, 8, 20, rounds=2)
    contenders = ["instsel", "submodlib-py 1.2"] if installed else ["instsel"]
    found = lines(text)
    assert [line[:2] for line in found] == [[points, name] for points in ("normal", "clusters") for name in contenders]
    assert found[0][3] == "1.0" and found[0][5] == "20 of 20"
    assert ("submodlib-py: not measured" in text) is not installed
    assert "apricot-select: not measured, it is not installed" in text
    if installed:
        # The first rows of a pool in random order cover less than those that were chosen for it.
        assert float(found[1][4]) < float(found[0][4])


@pytest.mark.parametrize(("package", "pick"), [("submodlib", "_submodlib"), ("apricot", "_apricot")])
def test_the_libraries_pick_what_instsel_picks(package, pick):
    pytest.importorskip(package)
    x = make_pool("embeddings", 90, dim=12)["embeddings"]
    assert list(getattr(selection_rivals, pick)(x, 15)) == selection_rivals._ours(x, 15)


def test_coverage_is_the_sum_of_the_best_cosines():
    x = np.array([[2.0, 0], [0, 3], [1, 1], [-1, 0]])
    assert selection_rivals.coverage(x, [0, 1]) == pytest.approx(1 + 1 + 0.5**0.5 + 0)


def test_bids_is_compared_with_the_first_steps_of_its_plain_loop(capsys):
    attribution = make_pool("attribution", 300, validation=7)["attribution"]
    picks, seconds = selection_rivals.plain_bids(attribution, 40)
    assert picks == bids.select(attribution, 40).indices.tolist()
    assert seconds > 0
    assert main(["--bids", "--shape", "300", "7", "--budget", "60", "--steps", "20"]) == 0
    told = capsys.readouterr().out
    assert "300 x 7, 60 picks." in told
    assert "| picks equal on these steps | 20 of 20 |" in told


def test_g2is_is_measured_alone(capsys):
    assert main(["--g2is", "--shape", "400", "40", "--budget", "30", "--rounds", "1"]) == 0
    told = capsys.readouterr().out
    assert "400 x 40, 30 picks." in told
    assert lines(told)[0][0] == "g2is" and lines(told)[0][3] == "30"


@pytest.mark.parametrize("arguments", [["--rows", "0"], ["--bids", "--g2is"], ["--shape", "5"]])
def test_arguments_that_cannot_be_used_are_refused(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
