"""Benchmark of the feedback service: labels a second and latency."""
