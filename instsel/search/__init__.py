"""Searching over how a study selects, mixes, orders and trains."""
