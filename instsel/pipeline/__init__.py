"""The stages of a study, one module each, and the runner."""
