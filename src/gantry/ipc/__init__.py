"""Frames and fds. Standard library only: it is loaded in the launcher."""
