"""A study through stage *finetune*, and what that needs: python jobs/finetune.py --config STUDY.yaml."""

from instsel.cli.jobs import run_through

if __name__ == "__main__":
    run_through("finetune")
