"""Actors and supervision on one trio loop; links, membership and election join later. Knows nothing of VMs."""
