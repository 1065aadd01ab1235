"""Run a study through stage *finetune* and its dependencies: python jobs/finetune.py --config STUDY.yaml."""

from instsel.cli.app import run_job

if __name__ == "__main__":
    run_job("finetune")
