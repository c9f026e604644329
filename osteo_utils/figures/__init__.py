"""Plots, diagrams of networks, and what every architecture chapter shows."""
