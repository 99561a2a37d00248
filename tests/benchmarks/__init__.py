"""Benchmarks of what the project promises; `python -m tests.benchmarks` lists them."""
