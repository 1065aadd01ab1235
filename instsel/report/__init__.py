"""Reports of finished studies: facts collected from a study folder, and their renderings."""
