"""The benchmark of languages, on a catalogue of its own."""

import struct
from pathlib import Path

import pytest

from benchmarks import languages
from benchmarks.languages import measure, translations


def write_catalogue(path: Path, texts: dict[str, str]) -> None:
    """Write a file of gettext: magic, version, and tables of keys and of their texts."""
    pairs = sorted({"": "Content-Type: text/plain; charset=UTF-8\n", **texts}.items())
    start = 28 + 16 * len(pairs)
    tables: list[tuple[int, int]] = []
    blob = b""
    for side in range(2):
        for pair in pairs:
            value = pair[side].encode()
            tables.append((len(value), start + len(blob)))
            blob += value + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(head + b"".join(struct.pack("<2I", *each) for each in tables) + blob)


def test_texts_are_those_of_all_catalogues_once_and_without_placeholders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(languages, "LOCALES", ("de", "zh_Hans"))
    for app, locale, texts in (
        ("conf", "de", {"Save %(name)s": "%(name)s <b>sichern</b>", "Yes": "Ja"}),
        ("contrib/admin", "de", {"Yes!": "Ja", "No": "Nein"}),
        ("conf", "zh_Hans", {"Yes": "是"}),
    ):
        write_catalogue(tmp_path / app / "locale" / locale / "LC_MESSAGES" / "django.mo", texts)
    assert list(translations(tmp_path)) == [("de", "sichern"), ("de", "Ja"), ("de", "Nein"), ("zh", "是")]


def test_a_library_is_measured_by_the_share_of_texts_that_it_tells_right() -> None:
    german = "Bitte wählen Sie eine gültige Auswahl aus der folgenden Liste von Möglichkeiten aus."
    french = "Veuillez sélectionner une valeur valide parmi les choix qui sont proposés ci-dessous."
    line = measure("py3langid", [("de", german), ("en", french)], [("de", "Die Seite wurde nicht gefunden.")], None)
    assert line[:4] == ["py3langid", "50.0%", "100.0%", "100.0% of 1"]
    assert float(line[4].replace(",", "")) > 0
