"""Benchmark of the feedback service: throughput of labels, and latency."""
