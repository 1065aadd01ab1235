"""Per-example gradients: captured by hooks, turned into Adam directions, sketched, stored in shards."""
