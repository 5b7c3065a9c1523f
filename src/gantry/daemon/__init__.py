"""gantryd: flags, daemon.json, listeners, signals, recovery.

Wires everything; alone names concrete drivers; holds no business logic."""
