"""actors.scheduler."""
