"""Count what the design is judged by: package cycles, upward imports, wide functions, untyped dicts and old names.

    python .ci/count.py [FOLDER] [--check] [--list] [--names]

FOLDER is the root of a checkout, by default the one that this file is in. The layers come from the `layers` contract of
import-linter in FOLDER's pyproject.toml; a checkout without one is measured by the contract of this checkout, so that
versions can be compared. Reads source text only: nothing of the package is imported.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    # pip carries this copy of tomli, so that Python 3.10 needs no package either.
    from pip._vendor import tomli as tomllib

PACKAGE = "instsel"
WIDE = 7
LONG = 350

# The left-hand column of the glossary in CONTRIBUTING.md. Words with a capital are matched in names of classes.
OLD_NAMES = [
    *(
        "told",
        "place",
        "places",
        "found",
        "made",
        "own",
        "one",
        "refused",
        "begun",
        "rows_again",
        "way",
        "ways",
        "begin",
    ),
    *(
        "anew",
        "Wish",
        "draws",
        "nested",
        "reads",
        "called_by",
        "wording",
        "Board",
        "Told",
        "Starts",
        "Points",
        "Pauses",
    ),
    *("gather", "gathered", "patience", "patiently", "enduring", "changed", "chatter", "depends", "pins", "Pins"),
    *("Allotment", "allot", "Pace", "Room", "Elsewhere", "Figures", "figures", "makeup", "verdict", "doubts"),
    # Not "tag": the stage of that name is gone, and a tag is what a language model gives a row.
    *("represent", "programme", "Mix", "set_aside", "left_out", "go_on"),
]

# `share` is a word of mixtures as well, and old only where it is a plan of resources.
OLD_NAMES_BY_ANNOTATION = {"share": {"Allotment", "ResourcePlan"}}


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name, its path and its syntax tree."""

    name: str
    path: Path
    lines: int
    tree: ast.Module
    is_package: bool


@dataclass(frozen=True)
class Import:
    """An import of one module of the package by another."""

    importer: str
    imported: str
    path: Path
    line: int


@dataclass(frozen=True)
class Name:
    """A name that is bound somewhere: a variable, parameter, function, class, attribute or module."""

    name: str
    kind: str
    module: str
    path: Path
    line: int


@dataclass(frozen=True)
class Layers:
    """The layers of the package, the top one first; names in one layer may be independent of each other."""

    rank: dict[str, int]
    independent: frozenset[int]

    def upward(self, imports: Sequence[Import]) -> list[Import]:
        """Return imports of a higher layer, and those between packages of a layer that have to be independent."""
        violations = []
        for item in imports:
            below, above = top_level(item.importer), top_level(item.imported)
            if below == above or below not in self.rank or above not in self.rank:
                continue
            lower, higher = self.rank[below], self.rank[above]
            if lower > higher or (lower == higher and lower in self.independent):
                violations.append(item)
        return violations


@dataclass
class Counts:
    """Everything that is counted in a checkout."""

    modules: list[Module]
    layers: Layers
    imports: list[Import]
    cycles: list[list[str]]
    pairs: list[tuple[str, str]]
    upward: list[Import]
    wide: list[tuple[str, int]]
    dicts: int
    method_checks: int
    names: list[Name] = field(default_factory=list)

    def table(self) -> list[tuple[str, int]]:
        """Return what was counted, and how many there are."""
        packages = {top_level(module.name) for module in self.modules} - {""}
        return [
            ("modules", len(self.modules)),
            (f"lines in {PACKAGE}/", sum(module.lines for module in self.modules)),
            (f"modules of more than {LONG} lines", sum(module.lines > LONG for module in self.modules)),
            ("names at the top level (packages and modules)", len(packages)),
            ("  of these in no layer", len(packages - self.layers.rank.keys())),
            ("package cycles (groups that import one another)", len(self.cycles)),
            ("  packages in cycles", sum(len(cycle) for cycle in self.cycles)),
            ("  pairs that import each other", len(self.pairs)),
            ("imports upwards, or between independent packages", len(self.upward)),
            (f"functions of {WIDE} or more parameters", len(self.wide)),
            ("`dict[str, Any]`", self.dicts),
            ("`isinstance(..., ...Method)`", self.method_checks),
            ("old names (glossary, left-hand column)", len(self.names)),
        ]


def top_level(module: str) -> str:
    """Return the package or module directly below the root that `module` belongs to; "" for the root itself."""
    return module.partition(".")[2].partition(".")[0]


def read_modules(root: Path) -> list[Module]:
    """Parse all modules of the package in the checkout `root`."""
    modules = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        text = path.read_text(encoding="utf-8")
        name = ".".join(parts[:-1] if is_package else parts)
        modules.append(Module(name, path.relative_to(root), len(text.splitlines()), ast.parse(text), is_package))
    return modules


def read_pyproject(root: Path) -> dict[str, Any]:
    """Return the `tool` table of pyproject.toml in the checkout `root`, or an empty one."""
    path = root / "pyproject.toml"
    tools: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}) if path.exists() else {}
    return tools


def read_layers(tools: dict[str, Any]) -> Layers | None:
    """Return the layers of the first `layers` contract of import-linter whose container is the package, if any.

    A layer is written as import-linter has it: `a | b` are independent, `a : b` may import each other, and parentheses
    mark a name that need not exist.
    """
    for contract in tools.get("importlinter", {}).get("contracts", []):
        if contract.get("type") == "layers" and PACKAGE in contract.get("containers", []):
            lines = contract["layers"]
            rank = {name: index for index, line in enumerate(lines) for name in re.findall(r"[\w.]+", line)}
            return Layers(rank, frozenset(index for index, line in enumerate(lines) if "|" in line))
    return None


def read_imports(modules: Sequence[Module]) -> list[Import]:
    """Return the imports of the package's own modules, also those inside functions and those for types only."""
    known = {module.name for module in modules}
    imports: list[Import] = []
    for module in modules:
        for node in ast.walk(module.tree):
            # `from package import name` imports a module, or a name of the package.
            targets = {name if name in known else name.rpartition(".")[0] for name in _imported(node, module)}
            line = getattr(node, "lineno", 0)
            imports.extend(
                Import(module.name, target, module.path, line) for target in sorted(targets & known - {module.name})
            )
    return imports


def _imported(node: ast.AST, module: Module) -> list[str]:
    """Return the dotted names that an import statement of `module` names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = module.name.split(".")
            parts = parts[: len(parts) - node.level + module.is_package]
            base = ".".join([*parts, base] if base else parts)
        return [f"{base}.{alias.name}" for alias in node.names]
    return []


def package_graph(imports: Sequence[Import]) -> dict[str, set[str]]:
    """Return which names directly below the root import which others. The root itself is no part of the graph."""
    graph: dict[str, set[str]] = {}
    for item in imports:
        importer, imported = top_level(item.importer), top_level(item.imported)
        if importer and imported:
            graph.setdefault(importer, set())
            graph.setdefault(imported, set())
            if importer != imported:
                graph[importer].add(imported)
    return graph


def find_cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of more than one node in which each reaches every other."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        stack = [start]
        while stack:
            for following in graph[stack.pop()] - seen:
                seen.add(following)
                stack.append(following)
        return seen

    reach = {node: reachable(node) for node in graph}
    groups = {
        frozenset(other for other in reach[node] if node in reach[other]) for node in graph if node in reach[node]
    }
    return sorted(sorted(group) for group in groups if len(group) > 1)


def find_pairs(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Return the pairs of nodes that import each other directly."""
    return sorted(
        (first, second) for first in graph for second in graph[first] if first < second and first in graph[second]
    )


def find_wide(modules: Sequence[Module]) -> list[tuple[str, int]]:
    """Return the functions that take at least `WIDE` parameters, as PATH:LINE NAME and how many, the widest first."""
    wide = []
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = len([name for name in _parameters(node) if name.arg not in ("self", "cls")])
                if count >= WIDE:
                    wide.append((f"{module.path}:{node.lineno} {node.name}", count))
    return sorted(wide, key=lambda item: (-item[1], item[0]))


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> list[ast.arg]:
    """Return all parameters of a function, `*args` and `**kwargs` included."""
    arguments = node.args
    optional = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *optional]


def with_text_annotations(tree: ast.Module) -> Iterator[ast.AST]:
    """Walk a tree, and the annotations in it that are written as text."""
    for node in ast.walk(tree):
        yield node
        annotation = node.returns if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None
        if isinstance(node, ast.arg | ast.AnnAssign):
            annotation = node.annotation
        for part in ast.walk(annotation) if annotation is not None else ():
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                try:
                    yield from ast.walk(ast.parse(part.value, mode="eval"))
                except SyntaxError:
                    # The value of a Literal, not a type.
                    continue


def count_dicts(modules: Sequence[Module]) -> int:
    """Count `dict[str, Any]`."""
    return sum(
        isinstance(node, ast.Subscript) and ast.unparse(node) in ("dict[str, Any]", "dict[(str, Any)]")
        for module in modules
        for node in with_text_annotations(module.tree)
    )


def count_method_checks(modules: Sequence[Module]) -> int:
    """Count calls of `isinstance` with a class whose name ends in `Method`."""
    count = 0
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance" and len(node.args) == 2:
                classes = {_last_name(part) for part in ast.walk(node.args[1])}
                count += any(name.endswith("Method") for name in classes)
    return count


def _last_name(node: ast.AST) -> str:
    """Return the last part of a dotted name, "" for anything else."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def old_word(name: str) -> str | None:
    """Return the old name that `name` is, begins with or ends with, by whole words; None if there is none."""
    bare = name.strip("_")
    if bare.isupper():
        bare = bare.lower()
    words = [word for part in bare.split("_") for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z]+", part)]
    for old in OLD_NAMES:
        parts = old.split("_")
        if words[: len(parts)] == parts or words[-len(parts) :] == parts:
            return old
    return None


class _Bindings(ast.NodeVisitor):
    """Collects the names that a module binds, each once a scope."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.scope: list[str] = []
        self.names: dict[tuple[tuple[str, ...], str, str], Name] = {}

    def bind(self, name: str, kind: str, line: int, annotation: ast.expr | None = None) -> None:
        old = old_word(name) is not None
        for word, annotations in OLD_NAMES_BY_ANNOTATION.items():
            if name.strip("_") == word and annotation is not None:
                old |= bool(annotations & set(re.findall(r"\w+", ast.unparse(annotation))))
        if old:
            # An attribute belongs to its class, whichever methods set it.
            scope = tuple(self.scope[:1] if kind == "attribute" else self.scope)
            self.names.setdefault((scope, kind, name), Name(name, kind, self.module.name, self.module.path, line))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.bind(node.name, "class", node.lineno)
        self._visit_scope(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.bind(node.name, "function", node.lineno)
        self._visit_scope(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def _visit_scope(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.scope.append(node.name)
        self.generic_visit(node)
        self.scope.pop()

    def visit_arg(self, node: ast.arg) -> None:
        self.bind(node.arg, "parameter", node.lineno, node.annotation)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.bind(node.target.id, "variable", node.lineno, node.annotation)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.bind(node.id, "variable", node.lineno)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Store):
            self.bind(node.attr, "attribute", node.lineno)
        self.generic_visit(node)

    def visit_alias(self, node: ast.alias) -> None:
        if node.asname is not None:
            self.bind(node.asname, "variable", node.lineno)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name is not None:
            self.bind(node.name, "variable", node.lineno)
        self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        if node.name is not None:
            self.bind(node.name, "variable", node.lineno)
        self.generic_visit(node)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        if node.name is not None:
            self.bind(node.name, "variable", node.lineno)


def find_names(modules: Sequence[Module], allow: Sequence[str]) -> list[Name]:
    """Return the old names that the modules bind, without those that `allow` lists as MODULE:NAME, `*` for any part."""
    names = []
    for module in modules:
        last = module.name.rpartition(".")[2]
        if old_word(last) is not None:
            names.append(Name(last, "module", module.name, module.path, 1))
        bindings = _Bindings(module)
        bindings.visit(module.tree)
        names.extend(bindings.names.values())
    return [name for name in names if not any(fnmatchcase(f"{name.module}:{name.name}", pattern) for pattern in allow)]


def count(root: Path) -> Counts:
    """Count everything in the checkout `root`."""
    modules = read_modules(root)
    if not modules:
        raise SystemExit(f"no {PACKAGE}/*.py in {root}")
    tools = read_pyproject(root)
    layers = read_layers(tools) or read_layers(read_pyproject(Path(__file__).parents[1])) or Layers({}, frozenset())
    imports = read_imports(modules)
    graph = package_graph(imports)
    return Counts(
        modules=modules,
        layers=layers,
        imports=imports,
        cycles=find_cycles(graph),
        pairs=find_pairs(graph),
        upward=layers.upward(imports),
        wide=find_wide(modules),
        dicts=count_dicts(modules),
        method_checks=count_method_checks(modules),
        names=find_names(modules, tools.get(PACKAGE, {}).get("count", {}).get("allow", [])),
    )


def write_list(counts: Counts) -> None:
    """Print the members of every count that has few."""
    for cycle in counts.cycles:
        print(f"cycle: {', '.join(cycle)}")
    for pair in counts.pairs:
        print(f"pair: {pair[0]} and {pair[1]}")
    for item in counts.upward:
        print(f"{item.path}:{item.line} {item.importer} imports {item.imported}")
    for where, parameters in counts.wide:
        print(f"{where}: {parameters} parameters")


def main() -> int:
    """Count, print a table, and return 1 if `--check` finds a cycle, an import upwards or an old name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[1], help="root of a checkout")
    parser.add_argument("--check", action="store_true", help="exit with 1 on cycles, imports upwards or old names")
    parser.add_argument("--list", action="store_true", help="list cycles, imports upwards and wide functions")
    parser.add_argument("--names", action="store_true", help="list every old name with its file and line")
    options = parser.parse_args()
    counts = count(options.folder)
    for label, number in counts.table():
        print(f"{label:<52}{number:>8,}")
    if options.list:
        write_list(counts)
    if options.names:
        for name in counts.names:
            print(f"{name.path}:{name.line} {name.kind} {name.name}")
    failed = bool(counts.cycles or counts.upward or counts.names)
    return 1 if options.check and failed else 0


if __name__ == "__main__":
    sys.exit(main())
