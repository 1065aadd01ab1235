"""What a model wrote runs in a child that can reach nothing and ends in time."""

import socket
import time
from pathlib import Path

import pytest

from instsel.errors import InputError
from instsel.evaluation import code
from instsel.evaluation.code import Limits, extract_code, passes, require_allowed

pytestmark = pytest.mark.process

ADD = "def add(a, b):\n    return a + b\n"
SHORT = Limits(seconds=2)


def test_a_program_passes_when_all_tests_do():
    assert passes(ADD, ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"])
    assert not passes(ADD, ["assert add(1, 2) == 3", "assert add(1, 2) == 4"])
    assert not passes("def add(a, b:", ["assert True"])


@pytest.mark.parametrize("ending", ["import os; os._exit(0)", "raise SystemExit(0)", "exit()"])
def test_a_program_that_ends_before_its_tests_does_not_pass(ending):
    assert not passes(f"{ADD}\n{ending}", ["assert add(1, 2) == 4"])


def test_what_it_prints_is_not_taken_for_its_result():
    assert passes("print('x' * 100_000)\nimport sys; sys.stdout.flush()", [])


@pytest.mark.parametrize("endless", ["while True: pass", "import time; time.sleep(60)"])
def test_an_endless_program_is_ended(endless):
    began = time.monotonic()
    assert not passes(endless, [], SHORT)
    assert time.monotonic() - began < 10


def test_children_end_with_it(tmp_path: Path):
    mark = tmp_path / "mark"
    program = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    time.sleep(1)\n"
        f"    open({str(mark)!r}, 'w').write('alive')\n"
        "    os._exit(0)\n"
    )
    assert passes(program, [])
    time.sleep(1.5)
    assert not mark.exists()


def test_it_reaches_no_network():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=1).close()"
        exec(program)
        assert not passes(program, [], SHORT)


def test_memory_and_files_are_limited():
    assert not passes("x = bytearray(2 << 30)", [])
    assert not passes("open('big', 'wb').write(b'x' * (2 << 20))", [])
    assert passes("open('small', 'wb').write(b'x')", [])


def test_it_sees_no_variables_of_the_environment(monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    assert passes("import os\nassert 'SECRET' not in os.environ", [])


def test_where_the_network_cannot_be_cut_off_nothing_runs(monkeypatch):
    # The flags of namespaces that no kernel has.
    monkeypatch.setattr(code, "_CHILD", code._CHILD.replace("NEWUSER | NEWNET | NEWPID", "0x1"))
    with pytest.raises(InputError, match="user namespaces are off"):
        passes(ADD, [])


def test_the_first_block_of_a_response_is_its_code():
    assert extract_code(f"Here it is:\n```python\n{ADD}```\nand\n```\nmore\n```") == ADD
    assert extract_code(f"```py\n{ADD}") == ADD
    assert extract_code(ADD) == ADD


def test_code_is_run_only_where_it_is_allowed(monkeypatch):
    monkeypatch.delenv(code.ALLOWED, raising=False)
    with pytest.raises(InputError, match=r"evaluation\.run_code: true"):
        require_allowed()
    monkeypatch.setenv(code.ALLOWED, "1")
    require_allowed()
