"""Widgets of the pages: each a small Python class with a plain JavaScript module beside it.

They answer in JavaScript alone, so they work live in JupyterLab, Colab and VS Code, and just the
same on a page of the built book, where no kernel runs. `LiveGradCam` alone needs a kernel.
"""

from osteo_utils.widgets.cam_explorer import CamExplorer, Stack
from osteo_utils.widgets.ceiling_explorer import CeilingExplorer
from osteo_utils.widgets.decision_explorer import DecisionExplorer
from osteo_utils.widgets.live_gradcam import LiveGradCam
from osteo_utils.widgets.phantom_explorer import PhantomExplorer
from osteo_utils.widgets.slides import Slides

__all__ = [
    "CamExplorer",
    "CeilingExplorer",
    "DecisionExplorer",
    "LiveGradCam",
    "PhantomExplorer",
    "Slides",
    "Stack",
]
