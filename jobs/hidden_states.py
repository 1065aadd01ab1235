"""A study through stage *hidden_states*, and what that needs: python jobs/hidden_states.py --config STUDY.yaml."""

from instsel.cli.jobs import run_through

if __name__ == "__main__":
    run_through("hidden_states")
