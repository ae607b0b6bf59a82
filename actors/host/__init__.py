"""actors.host."""
