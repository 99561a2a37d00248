"""Benchmark of training and serving networks of the official sizes."""
