"""How a trained model is judged: losses on held-out examples and how sure their differences are."""
