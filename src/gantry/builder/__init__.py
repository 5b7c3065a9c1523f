"""The engine's verbs for builds, as a service over the Protocols it declares.

No HTTP, no syscalls."""
