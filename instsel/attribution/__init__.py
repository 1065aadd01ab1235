"""Influence of pool rows on validation rows, computed from gradient features."""

from instsel.attribution.contrastive import contrast
from instsel.attribution.scores import attribute

__all__ = ["attribute", "contrast"]
