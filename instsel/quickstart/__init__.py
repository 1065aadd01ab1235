"""What `instsel quickstart` needs before it calls the ordinary study run: a model, a pool and targets, from PyPI."""
