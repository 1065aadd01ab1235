"""A whole study, from its file to its report: python jobs/run.py --config STUDY.yaml."""

from instsel.cli.jobs import run_through

if __name__ == "__main__":
    run_through()
