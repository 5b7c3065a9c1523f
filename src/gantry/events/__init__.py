"""The event bus: what happened, in order, to whoever listens."""
