"""Run a study through stage *prepare*, with its dependencies: python jobs/prepare.py --config STUDY.yaml."""

from instsel.cli.app import run_job

if __name__ == "__main__":
    run_job("prepare")
