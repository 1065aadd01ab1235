"""Run a study through stage *evaluate* and its dependencies: python jobs/evaluate.py --config STUDY.yaml."""

from instsel.cli.app import run_job

if __name__ == "__main__":
    run_job("evaluate")
