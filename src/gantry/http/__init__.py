"""Listeners, hijack, upgrade."""
