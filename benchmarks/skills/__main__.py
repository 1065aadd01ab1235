"""`python -m benchmarks.skills`."""

from benchmarks.skills.run import main

main()
