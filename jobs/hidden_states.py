"""Run a study through stage *hidden_states* and its dependencies: python jobs/hidden_states.py --config STUDY.yaml."""

from instsel.cli.app import run_job

if __name__ == "__main__":
    run_job("hidden_states")
