"""zeitwork.api."""
