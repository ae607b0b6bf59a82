"""Links between hosts: frames, connections, the driver that keeps them, and refs to actors on other hosts."""
