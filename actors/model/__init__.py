"""Values and units of the domain. Imports nothing but the standard library, so every layer above may use it."""
