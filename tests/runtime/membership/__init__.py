"""tests.runtime.membership."""
