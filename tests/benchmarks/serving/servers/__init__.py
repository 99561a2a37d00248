"""The servers that are measured, and the model versions that they serve."""
