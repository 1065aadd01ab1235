"""All of cluster/: nothing without a test, nothing to replace without an explanation, one version everywhere."""

import re
from importlib import metadata
from pathlib import Path

import tomllib
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROVENANCE = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PLACEHOLDER = re.compile(r"REPLACE_[A-Z_]+")
IMAGE = re.compile(r"ray(?:project/ray:)?(\d+\.\d+\.\d+)-py(\d)(\d+)-(\w+)")


def files(cluster: Path) -> dict[str, str]:
    paths = sorted(path for path in cluster.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(cluster)): path.read_text() for path in paths}


def test_every_file_of_cluster_is_named_by_a_test(cluster: Path) -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    untested = [name for name in files(cluster) if not re.search(f"""["'/]{re.escape(Path(name).name)}["']""", tests)]
    assert untested == []


def test_readme_explains_every_value_to_replace_and_no_other(cluster: Path) -> None:
    texts = files(cluster)
    readme = texts.pop("README.md")
    wanted = {word for text in texts.values() for word in PLACEHOLDER.findall(text)}
    rows = [line.split("|")[1] for line in readme.splitlines() if line.startswith("| `REPLACE_")]
    explained = {word for row in rows for word in PLACEHOLDER.findall(row)}
    assert explained == wanted


def test_readme_names_every_way_and_only_files_that_exist(cluster: Path) -> None:
    readme = (cluster / "README.md").read_text()
    named = set(re.findall(r"\bcluster/([\w./-]+\w)", readme))
    assert [name for name in named if not (cluster / name).exists()] == []
    assert {name for name in files(cluster) if name != "README.md"} <= named


def test_images_and_specs_have_the_ray_of_constraints_and_one_python(cluster: Path) -> None:
    found = {
        (name, ray, f"{major}.{minor}")
        for name, text in files(cluster).items()
        for ray, major, minor, _ in IMAGE.findall(text)
    }
    assert {name for name, _, _ in found} >= {"Dockerfile", "aws.yaml", "gcp.yaml", "kubernetes/rayjob.yaml"}
    python = PROJECT["tool"]["mypy"]["python_version"]
    assert {(ray, version) for _, ray, version in found} == {(PROVENANCE["ray"], python)}
    versions = [re.findall(r'rayVersion: "(.+)"', text) for text in files(cluster).values()]
    assert [version for those in versions for version in those] == [PROVENANCE["ray"]] * 2


def test_the_project_allows_the_ray_that_is_pinned() -> None:
    extras = PROJECT["project"]["optional-dependencies"]["cluster"]
    rays = [Requirement(text) for text in PROJECT["project"]["dependencies"] + extras]
    rays = [requirement for requirement in rays if requirement.name == "ray"]
    assert len(rays) == 2
    assert all(PROVENANCE["ray"] in requirement.specifier for requirement in rays)
    assert rays[0].specifier == rays[1].specifier


def test_pinned_packages_run_on_the_images_python() -> None:
    python = f"{PROJECT['tool']['mypy']['python_version']}.0"
    installed = {
        one.name: one.metadata.get("Requires-Python") for one in metadata.distributions() if one.name in PROVENANCE
    }
    assert len(installed) > 50
    unfit = [name for name, wants in installed.items() if wants and python not in Requirement(f"x{wants}").specifier]
    assert unfit == []
