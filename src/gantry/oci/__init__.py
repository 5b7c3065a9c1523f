"""Spec values of the Open Container Initiative: runtime, image, distribution."""
