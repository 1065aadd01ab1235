"""Run a study through stage *warmup* and its dependencies: python jobs/warmup.py --config STUDY.yaml."""

from instsel.cli.app import run_job

if __name__ == "__main__":
    run_job("warmup")
