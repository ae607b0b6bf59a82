"""actors.images."""
