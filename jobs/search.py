"""Run the search of a study: python jobs/search.py --config STUDY.yaml."""

from instsel.cli.app import search_job

if __name__ == "__main__":
    search_job()
