"""Run a study through stage *attribution* and its dependencies: python jobs/attribution.py --config STUDY.yaml."""

from instsel.cli.app import run_job

if __name__ == "__main__":
    run_job("attribution")
