"""Commands from the leader to other hosts: hints that what Postgres wants of a placement has changed."""
