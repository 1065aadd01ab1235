"""A study through stage *prepare*, and what that needs: python jobs/prepare.py --config STUDY.yaml."""

from instsel.cli.jobs import run_through

if __name__ == "__main__":
    run_through("prepare")
