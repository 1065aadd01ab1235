"""What a study will take, worked out from counts and measured rates. Imports neither Ray nor transformers."""
