"""A study through stage *interaction*, and what that needs: python jobs/interaction.py --config STUDY.yaml."""

from instsel.cli.jobs import run_through

if __name__ == "__main__":
    run_through("interaction")
