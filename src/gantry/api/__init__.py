"""Wire JSON, routes (a module a resource), versions, status codes.

Talks to Protocols it declares; no syscalls, no files."""
