"""A study through stage *warmup*, and what that needs: python jobs/warmup.py --config STUDY.yaml."""

from instsel.cli.jobs import run_through

if __name__ == "__main__":
    run_through("warmup")
