"""Filters of pool rows: `data.filters` of a study file."""
