"""Native output goes to the log file, Python's to the terminal, and all is as it was afterwards."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from pathlib import Path
from instsel.console import capture_native_stderr

with capture_native_stderr(Path(sys.argv[1])):
    os.write(2, b"native\\n")
    print("python", file=sys.stderr)
os.write(2, b"native after\\n")
print("python after", file=sys.stderr)
"""


@pytest.mark.process
def test_native_errors_go_to_the_file_and_pythons_do_not(tmp_path):
    path = tmp_path / "log"
    path.write_text("earlier\n")
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True)
    assert path.read_text() == "earlier\nnative\n"
    assert done.stderr == "python\nnative after\npython after\n"
