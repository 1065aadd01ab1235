"""A study through stage *categorize*, and what that needs: python jobs/categorize.py --config STUDY.yaml."""

from instsel.cli.jobs import run_through

if __name__ == "__main__":
    run_through("categorize")
