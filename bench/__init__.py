"""Benchmarks: gantryd beside Debian's dockerd, alternating on the same machine."""
