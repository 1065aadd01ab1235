"""A study through stage *features*, and what that needs: python jobs/features.py --config STUDY.yaml."""

from instsel.cli.jobs import run_through

if __name__ == "__main__":
    run_through("features")
