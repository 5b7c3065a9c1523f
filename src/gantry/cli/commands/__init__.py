"""The commands, one module a subject; `gantry.cli.registry` names them."""
