"""Try the trained models on radiographs: `streamlit run interface/app.py`."""

import streamlit as st

st.set_page_config(page_title="Try a model on a knee radiograph", page_icon="🦴", layout="wide")
with st.spinner("Starting TensorFlow, once after the app was started ..."):
    import page

page.show()
