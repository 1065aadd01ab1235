"""What a study takes, before it starts: timed on a sample, added up by stage."""
