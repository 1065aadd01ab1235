"""Run a study through stage *embed* and its dependencies: python jobs/embed.py --config STUDY.yaml."""

from instsel.cli.app import run_job

if __name__ == "__main__":
    run_job("embed")
