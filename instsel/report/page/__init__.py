"""report.html: a study's facts as one self-contained page."""
