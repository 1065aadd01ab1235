"""Sections of report.html, its template, style and script."""
