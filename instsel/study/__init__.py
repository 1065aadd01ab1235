"""A study folder: stages, fingerprints, their graph, and reading them. Imports neither Ray nor torch."""
