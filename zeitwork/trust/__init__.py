"""Which hosts belong to the cluster: its authority, hosts' certificates, join tokens and the join itself."""
