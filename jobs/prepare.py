"""Run a study through stage *prepare* and its dependencies: python jobs/prepare.py --config STUDY.yaml."""

from instsel.cli.app import run_job

if __name__ == "__main__":
    run_job("prepare")
