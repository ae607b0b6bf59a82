"""actors.health."""
