"""Check what the Markdown files of this repository refer to, without the network.

    python .ci/docs.py [FILE...]

Checked are relative links and their anchors, files, folders and names of tests in backticks, and commands `instsel ...`
with their options, in backticks and in blocks of shell code. Prints FILE:LINE and what is wrong; exits with 1 if
anything is.
"""

import argparse
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import typer

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).parents[1]
# Folders whose files are named in backticks. Names in capitals stand for something else: `select/METHOD`.
NAMED_FOLDERS = ("benchmarks", "cluster", "configs", "docs", "instsel", "jobs", "notebooks", "tests")


def markdown_files() -> list[Path]:
    """Return the Markdown files that git knows, or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).exists()]


def split_code(text: str) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Return the lines outside of code blocks and the shell commands inside, each with the number of its line."""
    prose, commands = [], []
    language: str | None = None
    joined = ""
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.match(r"\s*```(\w*)", line)
        if fence:
            language = fence[1] if language is None else None
        elif language is None:
            prose.append((number, line))
        elif language in ("bash", "console", "sh", "shell"):
            joined += line.strip()
            if joined.endswith("\\"):
                joined = joined[:-1]
                continue
            commands.append((number, joined))
            joined = ""
    return prose, commands


@cache
def anchors(path: Path) -> frozenset[str]:
    """Return the anchors of a Markdown file's headings, as GitHub makes them."""
    seen: dict[str, int] = {}
    names = set()
    for _, line in split_code(path.read_text(encoding="utf-8"))[0]:
        heading = re.match(r"#{1,6}\s+(.*?)\s*#*$", line)
        if heading:
            text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            count = seen.get(slug, 0)
            seen[slug] = count + 1
            names.add(f"{slug}-{count}" if count else slug)
        names.update(re.findall(r'<a (?:id|name)="([^"]+)"', line))
    return frozenset(names)


def check_links(path: Path, prose: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield relative links that lead nowhere."""
    for number, line in prose:
        for target in re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", re.sub(r"`[^`]*`", "", line)):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = unquote(target).partition("#")
            linked = (path.parent / name).resolve() if name else path
            if not linked.exists():
                yield number, f"link to {target}: no such file"
            elif anchor and linked.suffix == ".md" and anchor not in anchors(linked):
                yield number, f"link to {target}: no such heading"


@cache
def tests() -> frozenset[str]:
    """Return the names of all test functions and test files."""
    names = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        names.update(re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8")))
        names.update((path.name, path.stem))
    return frozenset(names)


def check_names(prose: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield names of files and tests in backticks that do not exist."""
    for number, line in prose:
        for span in re.findall(r"`([^`]+)`", line):
            word = span.split("::")[0].rstrip("/")
            folder, slash, _ = word.partition("/")
            is_file = re.fullmatch(r"[\w./-]+", word) and slash and folder in NAMED_FOLDERS
            if is_file and not re.search(r"[A-Z]{2,}", word.replace("README", "")) and not (ROOT / word).exists():
                yield number, f"`{span}`: no such file"
            # `runtime/actors.py` is a module of the package, as the docs name it.
            is_module = re.fullmatch(r"[a-z_/]+\.py", word) and slash and not is_file
            if is_module and not (ROOT / "instsel" / word).exists():
                yield number, f"`{span}`: no such module"
            if re.fullmatch(r"test_\w+", span) and span not in tests():
                yield number, f"`{span}`: no such test"


@cache
def command() -> Any:
    """Return the command that pyproject.toml installs as `instsel`, with its subcommands in `commands`."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, attribute = scripts["instsel"].partition(":")
    sys.path.insert(0, str(ROOT))
    application = getattr(importlib.import_module(module), attribute)
    return typer.main.get_command(application) if isinstance(application, typer.Typer) else application


def check_commands(commands: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield commands and options of `instsel` that do not exist."""
    for number, line in commands:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            tokens = list(lexer)
        except ValueError:
            # A text over several lines, which no command of `instsel` takes.
            continue
        words: list[str] = []
        for token in [*tokens, ";"]:
            if set(token) <= set("();<>|&"):
                if words[:1] == ["instsel"]:
                    yield from ((number, problem) for problem in _problems(words[1:]))
                words = []
            else:
                words.append(token)


def _problems(words: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the arguments of one `instsel` command."""
    current, prefix = command(), "instsel"
    for word in words:
        children = getattr(current, "commands", {})
        if word.startswith("-"):
            options = {name for parameter in current.params for name in (*parameter.opts, *parameter.secondary_opts)}
            if word.partition("=")[0] not in options | {"--help"}:
                yield f"`{prefix}` has no option {word.partition('=')[0]}"
        elif word in children:
            current, prefix = children[word], f"{prefix} {word}"
        elif children:
            yield f"`{prefix}` has no command {word}"
            return


def check(path: Path) -> Iterator[tuple[int, str]]:
    """Yield everything that is wrong in a Markdown file, with the numbers of the lines."""
    prose, commands = split_code(path.read_text(encoding="utf-8"))
    yield from check_links(path, prose)
    spans = [(number, span) for number, line in prose for span in re.findall(r"`(instsel [^`]+)`", line)]
    yield from check_commands([*commands, *spans])
    # A changelog names what is no more.
    if path.name != "CHANGELOG.md":
        yield from check_names(prose)


def main() -> int:
    """Check the files that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="Markdown files; all of the repository by default")
    files = [path.resolve() for path in parser.parse_args().files] or markdown_files()
    problems = [f"{path.relative_to(ROOT)}:{line}: {text}" for path in files for line, text in check(path)]
    print("\n".join(problems) or f"{len(files)} Markdown files refer to nothing that is missing")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
