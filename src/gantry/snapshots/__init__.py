"""Layer file systems that *emit* mounts."""
