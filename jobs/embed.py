"""A study through stage *embed*, and what that needs: python jobs/embed.py --config STUDY.yaml."""

from instsel.cli.jobs import run_through

if __name__ == "__main__":
    run_through("embed")
