"""The HTTP control endpoint: loopback TCP and a unix socket, JSON in and out, errors as problem documents."""
