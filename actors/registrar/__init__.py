"""Nodes: what a host says of itself. Inviting and judging other hosts joins with links between them."""
