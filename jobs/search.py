"""A search over studies: python jobs/search.py --config STUDY.yaml."""

from instsel.job import search

if __name__ == "__main__":
    search()
