"""The Streamlit app; `streamlit run interface/app.py` starts it, from any folder."""
