"""Widgets of the pages: each a small Python class with a plain JavaScript module beside it.

They answer in JavaScript alone, so they work live in JupyterLab, Colab and VS Code, and just the
same on a page of the built book, where no kernel runs.
"""

from osteo_utils.widgets.decision_explorer import DecisionExplorer

__all__ = ["DecisionExplorer"]
