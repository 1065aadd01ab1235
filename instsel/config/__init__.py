"""The study file: its keys as types, reading it, and errors that name the wrong key."""
