"""Run a study through stage *likelihood* and its dependencies: python jobs/likelihood.py --config STUDY.yaml."""

from instsel.cli.app import run_job

if __name__ == "__main__":
    run_job("likelihood")
