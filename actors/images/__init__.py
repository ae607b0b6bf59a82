"""Images in: references, registries and archives, merged layers, root filesystems, and the actor over them."""
