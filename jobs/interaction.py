"""Run a study through stage *interaction* and its dependencies: python jobs/interaction.py --config STUDY.yaml."""

from instsel.cli.app import run_job

if __name__ == "__main__":
    run_job("interaction")
