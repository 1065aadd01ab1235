"""Run a study through stage *select* and its dependencies: python jobs/select_rows.py --config STUDY.yaml."""

from instsel.cli.app import run_job

if __name__ == "__main__":
    run_job("select")
