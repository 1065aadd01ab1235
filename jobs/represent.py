"""A study through stage *represent*, and what that needs: python jobs/represent.py --config STUDY.yaml."""

from instsel.cli.jobs import run_through

if __name__ == "__main__":
    run_through("represent")
