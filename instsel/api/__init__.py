"""A finished study as tables and vectors, see `instsel.open_study`."""
