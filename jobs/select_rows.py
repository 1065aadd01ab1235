"""A study through stage *select*, and what that needs: python jobs/select_rows.py --config STUDY.yaml."""

from instsel.cli.jobs import run_through

if __name__ == "__main__":
    run_through("select")
