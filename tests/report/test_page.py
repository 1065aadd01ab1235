import asyncio
import base64
import hashlib
import json
import re
import subprocess
import sys

import pytest

from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.report.collect import read_summary
from instsel.report.html import embedded, write_report
from instsel.report.page.parts import label, labels
from tests.report.browser import CHROMIUM, browse


def page_of(study) -> str:
    write_report([str(study)])
    return (study / "report" / "report.html").read_text(encoding="utf-8")


def charts_of(page: str) -> list:
    return json.loads(re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL)[1])


def without_scripts(page: str) -> str:
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_the_page_has_its_sections_and_marks_the_best(study_folder):
    page = page_of(study_folder)
    titles = ["Results", "What was selected", "Influence", "How budgets were divided", "Rows to read"]
    for title in [*titles, "Rejected rows", "Cost and provenance"]:
        assert f"<h2>{title}</h2>" in page
    assert "Best: smart, with a mean held-out loss of 1.700" in page
    # Nothing of what the study lacks.
    for title in ("Mixture", "Search", "Order of training"):
        assert f"<h2>{title}</h2>" not in page
    assert len(charts_of(page)) == page.count('class="chart"') > 5


def test_hostile_texts_are_text(study_folder):
    page = page_of(study_folder)
    body = without_scripts(page)
    assert "&lt;script&gt;alert(" in body
    assert "<img" not in body and "right<b>" not in body
    assert "\x1b" not in page and "\u202e" not in page and "\\x1b[31m" in body
    assert "w" * 2501 not in body and "more letters" in body
    assert "right&lt;b&gt;" in json.dumps(charts_of(page))


def test_the_policy_lets_only_the_pages_own_scripts_run(study_folder):
    page = page_of(study_folder)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(scripts) == 2
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "'unsafe-eval'" not in policy
    assert re.findall(r"'sha256-([^']*)'", policy) == digests


def test_json_within_a_script_cannot_end_it():
    text = embedded({"name": "</script><!--&"})
    assert not {"<", ">", "&"} & set(text)
    assert json.loads(text) == {"name": "</script><!--&"}


def test_names_in_charts_are_short_and_without_markup_and_never_the_same():
    assert label("<b>x</b>&") == "&lt;b&gt;x&lt;/b&gt;&amp;"
    first, second = labels(["n" * 90 + "a", "n" * 90 + "b"])
    assert first != second and len(first) < 40


def test_an_unfinished_study_says_so_on_top(make_study_folder, tmp_path):
    page = page_of(make_study_folder(tmp_path / "half", until="select"))
    assert "This study is not finished." in page and "finetune/random" in page
    assert "Nothing is evaluated yet" in page


def test_edited_results_are_reported_on_top(study_folder):
    assert "These results do not fit together" not in page_of(study_folder)
    path = study_folder / "prepare" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "settings": {"more": 1}}))
    page = page_of(study_folder)
    assert page.index("These results do not fit together") < page.index("<h2>Results</h2>")


def test_several_studies_stand_side_by_side(make_study_folder, tmp_path):
    first, second = make_study_folder(tmp_path / "a", name="first"), make_study_folder(tmp_path / "b", name="second")
    studies, path = write_report([str(first), str(second)], str(tmp_path / "out" / "both.html"))
    page = (tmp_path / "out" / "both.html").read_text()
    assert path == str(tmp_path / "out" / "both.html") and [facts.study for facts in studies] == ["first", "second"]
    assert "<h2>Side by side</h2>" in page and page.count("<h2>Results</h2>") == 2
    ids = re.findall(r'<section id="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_studies_of_one_name_show_their_folders_and_a_study_given_twice_is_shown_once(make_study_folder, tmp_path):
    first, second = make_study_folder(tmp_path / "a"), make_study_folder(tmp_path / "b")
    studies, _ = write_report([str(first), str(second), str(first)], str(tmp_path / "both.html"))
    assert [facts.study for facts in studies] == [f"tiny ({first})", f"tiny ({second})"]
    assert str(second) in without_scripts((tmp_path / "both.html").read_text())


def test_a_study_that_cannot_be_written_to_is_reported_elsewhere(study_folder, tmp_path):
    (study_folder / "report").write_text("in the way of the folder")
    with pytest.raises(InputError, match="cannot be written .*--out"):
        write_report([str(study_folder)])
    _, path = write_report([str(study_folder)], str(tmp_path / "new" / "x.html"))
    assert "<h2>Results</h2>" in (tmp_path / "new" / "x.html").read_text() and path.endswith("/new/x.html")
    write_report([str(study_folder)], (tmp_path / "y.html").as_uri())
    assert (tmp_path / "y.html").exists()


@pytest.mark.parametrize("out", ["", "{}", "{}/"])
def test_an_output_that_is_no_file_is_rejected(study_folder, tmp_path, out):
    with pytest.raises(InputError, match="is no file; name one"):
        write_report([str(study_folder)], out.format(tmp_path))


@pytest.mark.parametrize("text", ['{"budget"', '{"budget": 4}', "[]"])
def test_a_summary_that_is_damaged_or_of_another_version_is_written_again(study_folder, text):
    (study_folder / "report").mkdir()
    (study_folder / "report" / "summary.json").write_text(text)
    page_of(study_folder)
    assert read_summary(Folder.at(study_folder) / "report").budget == 4


def test_a_manifest_with_other_results_than_this_version_writes_is_an_input_error(study_folder):
    path = study_folder / "select" / "bids" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "result": {"rows": 4}}))
    with pytest.raises(InputError, match="other results than this version writes"):
        write_report([str(study_folder)])


def test_all_facts_of_the_page_are_in_the_summary_too(study_folder):
    page_of(study_folder)
    summary = json.loads((study_folder / "report" / "summary.json").read_text())
    assert summary["budget"] == 4
    assert summary["losses"]["smart"]["sums"] == pytest.approx(1.2)
    assert "alert" not in json.dumps(summary["reading"])
    (facts,), _ = write_report([str(study_folder)])
    assert read_summary(Folder.at(study_folder) / "report") == facts


def test_the_markdown_report_stands_beside_the_page_and_has_no_pictures(study_folder):
    page_of(study_folder)
    text = (study_folder / "report" / "report.md").read_text()
    assert "| target | base | random | bids | smart |" in text and "![" not in text


@pytest.mark.process
def test_the_page_is_built_without_ray_or_torch(study_folder):
    script = (
        "import sys; from instsel.report.html import write_report; write_report([sys.argv[1]]);"
        "print([name for name in ('ray', 'torch', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(study_folder)], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.process
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_the_page_without_a_network(study_folder, tmp_path):
    page_of(study_folder)

    async def visit(page) -> dict:
        await page.look(1200, 900)
        count = await page.evaluate("document.querySelectorAll('.chart').length")
        for number in range(count):
            await page.evaluate(
                f"document.querySelectorAll('.chart')[{number}].scrollIntoView({{behavior: 'instant'}})"
            )
            await page.until(f"!!document.querySelectorAll('.chart')[{number}].querySelector('.main-svg')")
        table = "document.querySelectorAll('table.sortable')[0]"
        names = f"[...{table}.tBodies[0].rows].map((row) => row.cells[0].dataset.sort)"
        click = f"{table}.querySelectorAll('thead button')[1].click()"
        await page.evaluate(click)
        up = await page.evaluate(names)
        await page.evaluate(click)
        down = await page.evaluate(names)
        await page.evaluate(
            "(() => { const box = document.querySelector('.reading input'); box.value = 'needlerow09';"
            "box.dispatchEvent(new Event('input')); })()"
        )
        matches = await page.evaluate("document.querySelector('.matches').textContent")
        shown = await page.evaluate("document.querySelector('.reading details.row:not([hidden]) pre').textContent")
        await page.evaluate("document.getElementById('theme').click()")
        dark = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        await page.look(390, 800)
        await asyncio.sleep(0.2)
        wide = await page.evaluate("document.documentElement.scrollWidth")
        return {"up": up, "down": down, "matches": matches, "shown": shown, "dark": dark, "wide": wide,
                "requests": page.requests, "errors": page.errors}  # fmt: skip

    seen = browse(study_folder / "report" / "report.html", tmp_path / "profile", visit)
    assert seen["errors"] == []
    assert [url for url in seen["requests"] if not url.startswith(("file:", "data:"))] == []
    assert seen["up"] == ["smart", "bids", "random", "base"] and seen["down"] == seen["up"][::-1]
    assert re.fullmatch(r"[1-9]\d* of \d+ rows", seen["matches"])
    assert seen["shown"].startswith("needlerow09 <script>alert('x')</script>")
    assert seen["dark"] == "rgb(20, 24, 29)"
    assert seen["wide"] <= 390
