"""Try the trained models on radiographs: `streamlit run interface/app.py`."""

import sys
from pathlib import Path

import streamlit as st

# Streamlit puts this folder first; its modules are found in their package alone.
HERE = Path(__file__).resolve().parent
elsewhere = [path for path in sys.path if Path(path).resolve() not in (HERE, HERE.parent)]
sys.path[:] = [str(HERE.parent), *elsewhere]

st.set_page_config(page_title="Try a model on a knee radiograph", page_icon="🦴", layout="wide")
with st.spinner("Starting TensorFlow, once after the app was started ..."):
    from interface import page

page.show()
