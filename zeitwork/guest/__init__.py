"""zeitwork.guest."""
