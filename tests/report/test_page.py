import asyncio
import base64
import hashlib
import json
import re
import subprocess
import sys

import pytest

from instsel.errors import InputError
from instsel.report.page.build import embedded
from instsel.report.page.parts import label, labels
from instsel.report.write import write_report
from tests.report.browser import CHROMIUM, browse


def page_of(study) -> str:
    write_report([str(study)])
    return (study / "report" / "report.html").read_text(encoding="utf-8")


def charts_of(page: str) -> list:
    return json.loads(re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL)[1])


def without_scripts(page: str) -> str:
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_the_page_has_its_sections_and_marks_the_best(made):
    page = page_of(made)
    for title in ("Verdict", "What was chosen", "Influence", "How budgets were divided", "Rows to read", "Refused rows",
                  "Cost and origin"):  # fmt: skip
        assert f"<h2>{title}</h2>" in page
    assert "Best: smart, with a mean held-out loss of 1.700" in page
    # Nothing of what the study lacks.
    for title in ("Mixture", "Search", "Order of training"):
        assert f"<h2>{title}</h2>" not in page
    assert len(charts_of(page)) == page.count('class="chart"') > 5


def test_hostile_texts_are_text(made):
    page = page_of(made)
    body = without_scripts(page)
    assert "&lt;script&gt;alert(" in body
    assert "<img" not in body and "right<b>" not in body
    assert "\x1b" not in page and "\u202e" not in page and "\\x1b[31m" in body
    assert "w" * 2501 not in body and "more letters" in body
    assert "right&lt;b&gt;" in json.dumps(charts_of(page))


def test_the_policy_lets_only_the_pages_own_scripts_run(made):
    page = page_of(made)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts]
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


def test_an_unfinished_study_says_so_on_top(make, tmp_path):
    page = page_of(make(tmp_path / "half", until="select"))
    assert "This study is not finished." in page and "finetune/random" in page
    assert "Nothing is evaluated yet" in page


def test_edited_results_are_said_on_top(made):
    assert "These results do not fit together" not in page_of(made)
    path = made / "prepare" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "config": {"more": 1}}))
    page = page_of(made)
    assert page.index("These results do not fit together") < page.index("<h2>Verdict</h2>")


def test_several_studies_stand_side_by_side(make, tmp_path):
    first, second = make(tmp_path / "a", name="first"), make(tmp_path / "b", name="second")
    found, place = write_report([str(first), str(second)], str(tmp_path / "out" / "both.html"))
    page = (tmp_path / "out" / "both.html").read_text()
    assert place == str(tmp_path / "out" / "both.html") and [facts["study"] for facts in found] == ["first", "second"]
    assert "<h2>Side by side</h2>" in page and page.count("<h2>Verdict</h2>") == 2
    ids = re.findall(r'<section id="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_studies_of_one_name_are_told_by_their_folders_and_one_twice_is_one(make, tmp_path):
    first, second = make(tmp_path / "a"), make(tmp_path / "b")
    found, _ = write_report([str(first), str(second), str(first)], str(tmp_path / "both.html"))
    assert [facts["study"] for facts in found] == [f"tiny ({first})", f"tiny ({second})"]
    assert str(second) in without_scripts((tmp_path / "both.html").read_text())


def test_a_study_that_cannot_be_written_to_is_reported_elsewhere(made, tmp_path):
    (made / "report").write_text("in the way of the folder")
    with pytest.raises(InputError, match="cannot be written .*--out"):
        write_report([str(made)])
    _, place = write_report([str(made)], str(tmp_path / "new" / "x.html"))
    assert "<h2>Verdict</h2>" in (tmp_path / "new" / "x.html").read_text() and place.endswith("/new/x.html")
    write_report([str(made)], (tmp_path / "y.html").as_uri())
    assert (tmp_path / "y.html").exists()


@pytest.mark.parametrize("out", ["", "{}", "{}/"])
def test_a_place_that_is_no_file_is_refused(made, tmp_path, out):
    with pytest.raises(InputError, match="is no file; name one"):
        write_report([str(made)], out.format(tmp_path))


def test_what_was_reported_before_and_is_damaged_is_made_anew(made):
    (made / "report").mkdir()
    (made / "report" / "summary.json").write_text('{"budget"')
    page_of(made)
    assert set(json.loads((made / "report" / "summary.json").read_text())) == {"page"}


def test_all_that_the_page_shows_is_in_the_summary_too(made):
    (made / "report").mkdir()
    (made / "report" / "summary.json").write_text('{"budget": 4}')
    page_of(made)
    summary = json.loads((made / "report" / "summary.json").read_text())
    assert summary["budget"] == 4
    assert summary["page"]["losses"]["smart"]["sums"] == pytest.approx(1.2)
    assert "alert" not in json.dumps(summary["page"]["reading"])


@pytest.mark.process
def test_the_page_is_built_without_ray_or_torch(made):
    script = (
        "import sys; from instsel.report.write import write_report; write_report([sys.argv[1]]);"
        "print([name for name in ('ray', 'torch', 'transformers') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", script, str(made)], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


@pytest.mark.process
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_the_page_without_a_network(made, tmp_path):
    page_of(made)

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
        found = await page.evaluate("document.querySelector('.found').textContent")
        shown = await page.evaluate("document.querySelector('.reading details.row:not([hidden]) pre').textContent")
        await page.evaluate("document.getElementById('theme').click()")
        dark = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        await page.look(390, 800)
        await asyncio.sleep(0.2)
        wide = await page.evaluate("document.documentElement.scrollWidth")
        return {"up": up, "down": down, "found": found, "shown": shown, "dark": dark, "wide": wide,
                "requests": page.requests, "errors": page.errors}  # fmt: skip

    seen = browse(made / "report" / "report.html", tmp_path / "profile", visit)
    assert seen["errors"] == []
    assert [one for one in seen["requests"] if not one.startswith(("file:", "data:"))] == []
    assert seen["up"] == ["smart", "bids", "random", "base"] and seen["down"] == seen["up"][::-1]
    assert re.fullmatch(r"[1-9]\d* of \d+ rows", seen["found"])
    assert seen["shown"].startswith("needlerow09 <script>alert('x')</script>")
    assert seen["dark"] == "rgb(20, 24, 29)"
    assert seen["wide"] <= 390
