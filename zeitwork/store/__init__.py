"""zeitwork.store."""
