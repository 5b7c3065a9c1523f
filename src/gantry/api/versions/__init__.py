"""What older API versions send and expect (moby `api/docs/CHANGELOG.md` and its routers)."""
