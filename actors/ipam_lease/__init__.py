"""actors.ipam_lease."""
