"""A finished study, read back: tables as Arrow, vectors mapped, new selections. Needs neither Ray nor a model."""
