"""The three set functions of SMART, each with its greedy walk."""

from instsel.selection.facility_location import facility_location
from instsel.selection.graph_cut import graph_cut
from instsel.selection.log_det import log_det

__all__ = ["facility_location", "graph_cut", "log_det"]
