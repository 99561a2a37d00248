"""Removal of all metadata from a picture but its orientation."""
