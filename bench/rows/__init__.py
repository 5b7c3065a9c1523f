"""One module a row of the table; each measures one engine once and returns one number."""
