"""zeitwork.setup."""
