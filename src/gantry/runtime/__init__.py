"""runc's role: a bundle becomes a process.

No asyncio, no threads, no images, no daemon paths.
Standard library only: it is loaded in the launcher."""
