"""From a container's configuration to an OCI runtime spec, with Docker's defaults."""
