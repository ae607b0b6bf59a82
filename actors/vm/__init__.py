"""actors.vm."""
