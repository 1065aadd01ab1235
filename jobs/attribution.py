"""A study through stage *attribution*, and what that needs: python jobs/attribution.py --config STUDY.yaml."""

from instsel.cli.jobs import run_through

if __name__ == "__main__":
    run_through("attribution")
