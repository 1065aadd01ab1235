"""What looks on at training knows its figures without torch."""

import subprocess
import sys

import pytest


@pytest.mark.process
def test_bug_what_counts_steps_and_rows_loaded_torch():
    modules = "instsel.runtime.actors, instsel.runtime.training_progress, instsel.runtime.observability"
    script = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
