"""The engine's verbs for images, as services over the Protocols they declare.

No HTTP, no syscalls. A service for each noun, never one Daemon object that is all of them."""
