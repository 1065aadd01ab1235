"""Models: loading, losses, hidden states and embeddings."""
