"""How well, how fast and with how much memory libraries tell the language of a text, on Django's translations.

    python -m benchmarks.languages [--fasttext lid.176.ftz] [--out FILE]

The texts are those that Django shows, in 24 languages, without placeholders and tags: those of at least 60 characters,
and those of 10 to 40. The filter `language` uses py3langid; the others are measured where they are installed.
"""

import argparse
import gettext
import importlib.util
import re
import resource
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import files
from multiprocessing import get_context
from pathlib import Path

from benchmarks import report
from instsel.report.markdown import markdown_table

# Names of Django's folders.
LOCALES = (
    *("ar", "bg", "cs", "da", "de", "el", "es", "fa", "fi", "fr", "he", "hu"),
    *("id", "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv", "tr", "uk", "zh_Hans"),
)
LONG, SHORT = 60, (10, 40)
CONFIDENT = 0.5
PLACEHOLDER = re.compile(r"%\([^)]*\)[a-z]|%[a-z]|\{[^}]*\}|<[^>]*>|&\w+;")

Identify = Callable[[str], tuple[str, float]]
"""Text -> ISO 639-1 code and confidence."""

Texts = Sequence[tuple[str, str]]
"""Language and text."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each library in a process of its own, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fasttext", type=Path, help="model of fastText, to be read by fasttext-predict")
    parser.add_argument("--out", type=Path, help="file of the report; default standard output")
    options = parser.parse_args(argv)
    texts = list(translations(_django_folder()))
    long = [each for each in texts if len(each[1]) >= LONG]
    short = [each for each in texts if SHORT[0] <= len(each[1]) <= SHORT[1]]
    rows = []
    for name, (package, _) in LIBRARIES.items():
        if importlib.util.find_spec(MODULES[package]) is None or (
            package == "fasttext-predict" and not options.fasttext
        ):
            continue
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            rows.append(process.submit(measure, name, long, short, options.fasttext).result())
    header = [
        "library",
        "long",
        "short",
        "short, confident",
        "microseconds a long text",
        "MB installed",
        "MB of memory",
    ]
    command = shlex.join(["python", "-m", "benchmarks.languages", *(sys.argv[1:] if argv is None else argv)])
    facts = report.machine("cpu") | {
        "texts": f"{len(long):,} long, {len(short):,} short, in {len(LOCALES)} languages",
        "command": f"`{command}`",
    }
    text = f"# Languages\n\n{report.facts_list(facts)}\n\n{markdown_table(header, rows)}\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    else:
        print(text)


def translations(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each text of each language once, from the catalogues `locale/LOCALE/LC_MESSAGES/django.mo` of a folder."""
    for locale in LOCALES:
        texts: list[str] = []
        for path in sorted(folder.glob(f"**/locale/{locale}/LC_MESSAGES/django.mo")):
            with path.open("rb") as stream:
                catalogue: Mapping[object, str] = vars(gettext.GNUTranslations(stream))["_catalog"]
            texts += [" ".join(PLACEHOLDER.sub(" ", text).split()) for key, text in catalogue.items() if key]
        for text in dict.fromkeys(texts):
            yield locale.partition("_")[0], text


def measure(name: str, long: Texts, short: Texts, model: Path | None) -> list[str]:
    """Return a line of the table."""
    package, make = LIBRARIES[name]
    before = _peak_memory()
    identify = make(model)
    identify(long[0][1])
    start = time.perf_counter()
    of_long = [identify(text) for _, text in long]
    seconds = time.perf_counter() - start
    of_short = [identify(text) for _, text in short]
    right_short = [told == language for (told, _), (language, _) in zip(of_short, short, strict=True)]
    confident = [right for right, (_, sure) in zip(right_short, of_short, strict=True) if sure >= CONFIDENT]
    right_long = [told == language for (told, _), (language, _) in zip(of_long, long, strict=True)]
    size = sum(path.size or 0 for path in files(package) or ())
    return [
        name,
        f"{sum(right_long) / len(long):.1%}",
        f"{sum(right_short) / len(short):.1%}",
        f"{sum(confident) / max(1, len(confident)):.1%} of {len(confident):,}",
        f"{seconds / len(long) * 1e6:,.0f}",
        f"{size / 1e6:,.1f}",
        f"{(_peak_memory() - before) / 1e6:,.0f}",
    ]


def _django_folder() -> Path:
    spec = importlib.util.find_spec("django")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the texts are Django's; run `python -m pip install django`")
    return Path(spec.submodule_search_locations[0])


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _py3langid(_: Path | None) -> Identify:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def identify(text: str) -> tuple[str, float]:
        language, confidence = identifier.classify(text)
        return language, float(confidence)

    return identify


def _lingua(_: Path | None, *, low_accuracy: bool = False) -> Identify:
    from lingua import LanguageDetectorBuilder

    builder = LanguageDetectorBuilder.from_all_languages()
    detector = (builder.with_low_accuracy_mode() if low_accuracy else builder).build()

    def identify(text: str) -> tuple[str, float]:
        best = detector.compute_language_confidence_values(text)[0]
        return best.language.iso_code_639_1.name.lower(), best.value

    return identify


def _lingua_low(model: Path | None) -> Identify:
    return _lingua(model, low_accuracy=True)


def _cld3(_: Path | None) -> Identify:
    from gcld3 import NNetLanguageIdentifier

    identifier = NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=10_000)

    def identify(text: str) -> tuple[str, float]:
        result = identifier.FindLanguage(text=text)
        return {"iw": "he"}.get(result.language, result.language), result.probability

    return identify


def _fasttext(path: Path | None) -> Identify:
    import fasttext

    model = fasttext.load_model(str(path))

    def identify(text: str) -> tuple[str, float]:
        labels, probabilities = model.predict(text, k=1)
        return labels[0].removeprefix("__label__"), float(probabilities[0])

    return identify


LIBRARIES: dict[str, tuple[str, Callable[[Path | None], Identify]]] = {
    "py3langid": ("py3langid", _py3langid),
    "fasttext-predict": ("fasttext-predict", _fasttext),
    "lingua": ("lingua-language-detector", _lingua),
    "lingua, low accuracy": ("lingua-language-detector", _lingua_low),
    "cld3-py": ("cld3-py", _cld3),
}
MODULES = {
    "py3langid": "py3langid",
    "fasttext-predict": "fasttext",
    "lingua-language-detector": "lingua",
    "cld3-py": "gcld3",
}

if __name__ == "__main__":
    main()
