"""Brings what a host needs onto a machine, writes down every change, and undoes exactly those."""
