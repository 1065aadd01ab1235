"""A world with known answers: a small model, symbol skills, and a pool in which the helpful rows are known."""
