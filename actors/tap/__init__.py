"""actors.tap."""
