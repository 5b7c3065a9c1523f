"""Launcher and shim: fork, own stdio, write logs, keep exit status, outlive the daemon.

Never imports services or the store. Standard library only: it is loaded in the launcher."""
