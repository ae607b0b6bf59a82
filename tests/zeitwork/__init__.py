"""tests.zeitwork."""
