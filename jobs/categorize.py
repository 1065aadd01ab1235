"""Run a study through stage *categorize* and its dependencies: python jobs/categorize.py --config STUDY.yaml."""

from instsel.cli.app import run_job

if __name__ == "__main__":
    run_job("categorize")
