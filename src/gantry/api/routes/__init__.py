"""A module a resource: what each endpoint reads, calls and answers."""
