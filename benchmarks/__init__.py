"""Benchmarks: scripts that measure what the documentation claims, and write it there."""
