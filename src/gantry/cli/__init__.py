"""The `gantry` command: parse, call, print.

Knows `client` and `model`, never the server."""
