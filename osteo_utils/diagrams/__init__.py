"""Diagrams drawn from the model itself, so that a picture cannot differ from the network."""

from osteo_utils.diagrams.graphs import describe, graph_diagram, shape_text
from osteo_utils.diagrams.stages import outline, stage_diagram

__all__ = ["describe", "graph_diagram", "outline", "shape_text", "stage_diagram"]
