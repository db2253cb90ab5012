"""What scripts/check-documents knows: the rules, and the project that documents speak of."""
from .links import links, paths
from .commands import commands, shell
from .names import metrics, parameters
from .objects import objects
from .project import Project
from .snippets import snippets

RULES = [links, paths, shell, commands, objects, snippets, parameters, metrics]

__all__ = ["RULES", "Project"]
