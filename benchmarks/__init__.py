"""Benchmarks: what gating costs, side by side with what else there is. `python -m benchmarks --help`."""
