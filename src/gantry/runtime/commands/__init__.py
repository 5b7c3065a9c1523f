"""gantry-runc's commands: what runc's command line says, done with `Container`."""
