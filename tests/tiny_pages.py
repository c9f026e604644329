"""A page that holds widgets as the book does: their saved state, and a view of each."""

import json

from ipywidgets.embed import embed_data
from smoke import ROOT

LOADER = ROOT / "book/assets/js/widgets.js"
STATE, VIEW = (f"application/vnd.jupyter.widget-{kind}+json" for kind in ("state", "view"))


def page_of(widgets, change=lambda models: None):
    """Its HTML; `change` may damage the states before."""
    data = embed_data(views=widgets, drop_defaults=False)
    change(data["manager_state"]["state"])
    scripts = [(STATE, data["manager_state"]), *((VIEW, view) for view in data["view_specs"])]
    kept = "".join(f'<script type="{kind}">{json.dumps(held)}</script>' for kind, held in scripts)
    head = f'<!doctype html><title>Tiny</title><script src="{LOADER.as_uri()}" defer></script>'
    return f"{head}<main>{kept}</main>"
