"""The channel-dependency graph: the only place that rewires layers."""

from export.graph.channels import Filters as Filters
from export.graph.graph import Graph as Graph
from export.graph.graph import Group as Group
