"""What looks on at training knows its figures without torch."""

import subprocess
import sys


def test_bug_counters_and_boards_loaded_torch():
    modules = "instsel.stages.actors, instsel.stages.board, instsel.stages.metrics"
    script = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
