"""Scores with their intervals, and ensembles of finished runs."""
