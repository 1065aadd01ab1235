"""A study through stage *likelihood*, and what that needs: python jobs/likelihood.py --config STUDY.yaml."""

from instsel.cli.jobs import run_through

if __name__ == "__main__":
    run_through("likelihood")
