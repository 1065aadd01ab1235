"""The command `instsel`: parses arguments and calls what does the work."""
