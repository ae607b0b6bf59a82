"""Whose certificates registries may show."""

from __future__ import annotations

import functools
import ssl

import httpx


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Return a context that trusts what this host trusts, and the public authorities where it has no list of its own.

    Takes some 50 ms the first time: call it in a worker thread.
    """
    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context
