"""A study through stage *evaluate*, and what that needs: python jobs/evaluate.py --config STUDY.yaml."""

from instsel.cli.jobs import run_through

if __name__ == "__main__":
    run_through("evaluate")
