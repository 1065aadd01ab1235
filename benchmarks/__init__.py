"""Measurements of instsel against what else one could run; each writes a Markdown report."""
