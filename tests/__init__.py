"""Tests and benchmarks."""

# Turns off the telemetry of ONNX Runtime, which some tests and benchmarks import themselves.
import shared  # noqa: F401
