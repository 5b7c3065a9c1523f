"""Frozen values, enums, the error taxonomy. No I/O, no clock, no environment."""
