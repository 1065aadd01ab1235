"""What a study folder holds, read back as plain numbers: the ground of report.html, of `--json` and of summary.json."""
