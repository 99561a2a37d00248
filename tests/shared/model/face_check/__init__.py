"""Builds the network of the face check: made-up training crops, training and export."""
