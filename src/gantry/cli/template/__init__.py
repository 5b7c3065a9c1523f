"""Go's text/template, as far as `--format` goes: parse once, execute for each row."""
