"""The task driver over a real containerd: its gRPC API, and keepers for the streams.

Imported only by a daemon that was given --containerd."""
