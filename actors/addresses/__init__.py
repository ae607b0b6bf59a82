"""actors.addresses."""
