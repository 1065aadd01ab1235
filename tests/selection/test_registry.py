"""The methods of the package are found, and those that other packages bring; a broken one is named."""

import re
import sys
from pathlib import Path

import pytest

from instsel.errors import InputError
from instsel.selection import registry
from instsel.selection.base import Method
from instsel.selection.registry import REGISTRY, load_methods
from tests.plugins import SHORTEST, write_package


def test_every_method_of_the_package_is_found_under_its_name():
    assert list(REGISTRY.methods) == sorted(REGISTRY.methods)
    assert {"random", "bids", "round_robin", "g2is", "smart", "log_det"} <= set(REGISTRY.methods)
    assert all(REGISTRY.methods[name](method=name).name == name for name in REGISTRY.methods)
    assert [name for name, method in REGISTRY.methods.items() if method.is_baseline] == ["random"]
    without = {name for name, method in REGISTRY.methods.items() if method.array_function is None}
    # They choose nothing that an array would be needed for.
    assert without == {name for name, method in REGISTRY.methods.items() if method.picks != "budget"}
    REGISTRY.check()


def test_a_given_name_stays_and_a_default_one_is_not_set():
    entry = REGISTRY.methods["bids"](method="bids", name="mine")
    assert entry.name == "mine" and entry.settings() == {
        "version": 1,
        "method": "bids",
        "targets": None,
        "normalize": True,
    }
    assert "name" not in REGISTRY.methods["bids"](method="bids").model_dump(exclude_unset=True)


def test_a_package_brings_a_method_by_an_entry_point(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(write_package(tmp_path, "brings-a", "plugin_a", SHORTEST))
    loaded = load_methods()
    loaded.check()
    assert issubclass(loaded.methods["shortest"], Method)
    assert set(loaded.methods) == {*REGISTRY.methods, "shortest"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nothing_of_this_name", "cannot be loaded: No module named 'nothing_of_this_name'"),
        ("1 / 0", "cannot be loaded: division by zero"),
        ("", "cannot be loaded: module 'plugin_b' has no attribute 'Shortest'"),
        ("Shortest = 3", "cannot be loaded: it is 3, no subclass of instsel.selection.base.Method"),
        (
            "from instsel.selection.base import Method as Shortest",
            "cannot be loaded: Method is abstract: it lacks reasons, select",
        ),
        (SHORTEST.replace('Literal["shortest"]', "str"), "Shortest.method must be annotated with the method's name"),
        (SHORTEST.replace('"shortest"', '"bids"'), "brings the method 'bids', as instsel does; uninstall one"),
    ],
)
def test_a_broken_package_is_named(code, message, tmp_path: Path, monkeypatch):
    monkeypatch.delitem(sys.modules, "plugin_b", raising=False)
    monkeypatch.syspath_prepend(write_package(tmp_path, "brings-b", "plugin_b", code))
    loaded = load_methods()
    assert loaded.methods == REGISTRY.methods
    with pytest.raises(InputError, match=re.escape(message)) as error:
        loaded.check()
    assert "instsel.methods: entry point shortest = plugin_b:Shortest of brings-b" in str(error.value)
    monkeypatch.setattr(registry, "REGISTRY", loaded)
    with pytest.raises(InputError, match="of brings-b"):
        registry._entry("bids")


def test_of_two_packages_that_bring_one_name_the_second_is_named(tmp_path, monkeypatch):
    for package in ("brings-c", "brings-d"):
        folder = write_package(tmp_path / package, package, package.replace("-", "_"), SHORTEST)
        monkeypatch.syspath_prepend(folder)
    loaded = load_methods()
    assert "shortest" in loaded.methods
    assert len(loaded.problems) == 1
    assert re.search(
        r"brings_d:Shortest of brings-d brings the method 'shortest', as .* of brings-c does", loaded.problems[0]
    )
