"""Benchmarks: equal numbers first, then time (benchmarks/README.md)."""
