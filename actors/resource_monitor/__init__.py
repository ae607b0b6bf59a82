"""actors.resource_monitor."""
