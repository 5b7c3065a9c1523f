"""Reading container logs, and the drivers that send them elsewhere."""
