"""The domain: hosts, virtual machines, images, addresses, capacity. Imports ``runtime`` and never ``zeitwork``."""
