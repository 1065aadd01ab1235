"""Run a study through stage *features* and its dependencies: python jobs/features.py --config STUDY.yaml."""

from instsel.cli.app import run_job

if __name__ == "__main__":
    run_job("features")
