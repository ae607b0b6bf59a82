"""zeitwork.cli."""
