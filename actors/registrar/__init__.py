"""Nodes: what a host says of itself, and the leader's judge of hosts that say nothing any more."""
