"""Benchmarks: `python -m tests.benchmarks [NAME ...]` runs them."""
