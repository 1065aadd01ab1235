"""A search over studies: python jobs/search.py --config STUDY.yaml."""

from instsel.cli.jobs import search

if __name__ == "__main__":
    search()
