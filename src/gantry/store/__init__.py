"""Durable records: SQLite (WAL), one file, one writer."""
