"""Servers under measurement, and the model versions that they serve."""
