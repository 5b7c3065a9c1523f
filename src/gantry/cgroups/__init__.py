"""One cgroup: v1, v2, systemd. Standard library only: it is loaded in the launcher."""
