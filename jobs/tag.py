"""A study through stage *tag*, and what that needs: python jobs/tag.py --config STUDY.yaml."""

from instsel.cli.jobs import run_through

if __name__ == "__main__":
    run_through("tag")
