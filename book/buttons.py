"""The buttons of a chapter's page: its copies, its slides, and the student's copy in Colab.

An extension of Sphinx. The copies lie beside the pages (see editions.py), and on the branch that
holds the published pages.
"""

from typing import Any

from sphinx.application import Sphinx

from contents import chapters
from editions import in_colab

COPIES = {
    "student": "Notebook for students",
    "solutions": "Notebook with solutions",
    "instructor": "Notebook for instructors",
}


def dress_buttons(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Change what the theme offers on the page of a chapter."""
    files = {f"notebooks/{chapter.name}": chapter.file for chapter in chapters()}
    if page not in files:
        return
    file, to = files[page], context["pathto"]
    links = [(text, f"editions/{edition}/{file}") for edition, text in COPIES.items()]
    links.append(("Slides", f"slides/{file.removesuffix('.ipynb')}.html"))
    ours = [
        {
            "type": "link",
            "url": to(path, 1),
            "text": text,
            "tooltip": text,
            "icon": "fas fa-file",
            "label": f"copy-{path.split('/')[1] if 'editions' in path else 'slides'}-button",
        }
        for text, path in links
    ]
    for group in context["header_buttons"]:
        buttons = group.get("buttons", [])
        if group["label"] == "download-buttons":
            group["buttons"] = ours + [each for each in buttons if each["type"] == "javascript"]
        elif group["label"] == "launch-buttons":
            for button in buttons:
                button["url"] = in_colab(button["url"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect after the theme, whose own handlers have the priority 501."""
    app.connect("html-page-context", dress_buttons, priority=600)
    # Jupyter Book sets it for an extension that is left out here.
    app.add_config_value("comments_config", {}, "html")
    return {"parallel_read_safe": True}
