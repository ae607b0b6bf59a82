"""A key pair of no worth, made for one test: the realm signs tokens with it and the registry trusts its certificate."""

from __future__ import annotations

import base64
import hashlib
import json
import time

MODULUS = int(
    "b4f945c4ba818f5991582cd51c38e31738a85308b6d09fe7b01c7b2acb4e35d650e8eee8026c573019b998e09a79493ce7e9"
    "c0ae3f4d7779bda0a58a57ebd6ff683621ea0e5f0552eb29f0b8263f0a33c8e15d9580137c6cfcb8dbb8b391661cc729fe90"
    "db67f961d0171e4c46d650cd74db2055bd6e7a73cc2983cdc434011b907babe198f7b2d79535d1e386072fb7e552926cec15"
    "3f381f4f77460aed2cb181141c56da32481b5d7c15ee9d1f1d02c6ac02e161088fd2cab8f8ad249ec06dc6d0d23ea61fa15f"
    "821574c3bf4a0c862e7306afaa7004979c3c513b79333071ecf574886d0d015a71608525ff03b7d45cee7e07b0a957e7b9cf"
    "4bc172fcc297",
    16,
)
EXPONENT = int(
    "167e1baeb07be0b18d0bcc2796f4e52012c181315ff51e7d00867b0deb97bd593e6a2a0ccebca2f1444fe03144b89cf88477"
    "b7ab6cd920c6ba5a5b401948cba991eddf4eb17514c2073fb1f1e0d65986f36867034bf00a1f9b372f0941324532d7991a2c"
    "775314e8fa997e93aa194ee8836b4ea73c26d0674cb5f5cd9503cf5d65340b6385916ee687723580fb6fa2e047814643f416"
    "bdb15a78c32e1f4d2c6fe852c68929f4037cc9a6b0dc143973b73b8c7206067a90f149181f15bac703959a36e70c5b0f107e"
    "d4a792ac66c91973b337e4bac3985b3e24932a92953107c1b34512bde30d031ce6e92ee86ba50841489a8f6ed42d490012bd"
    "af4e904d691",
    16,
)
CERTIFICATE = (
    "MIIDDTCCAfWgAwIBAgIUeUdkg9VrFLOKk50yp4wx9cXj70YwDQYJKoZIhvcNAQELBQAwFTETMBEGA1UEAwwKdG9rZW4tdGVzdDAg"
    "Fw0wMDAxMDEwMDAwMDBaGA8yMTI2MTAzMDEzNTgzN1owFTETMBEGA1UEAwwKdG9rZW4tdGVzdDCCASIwDQYJKoZIhvcNAQEBBQAD"
    "ggEPADCCAQoCggEBALT5RcS6gY9ZkVgs1Rw44xc4qFMIttCf57AceyrLTjXWUOju6AJsVzAZuZjgmnlJPOfpwK4/TXd5vaClilfr"
    "1v9oNiHqDl8FUusp8LgmPwozyOFdlYATfGz8uNu4s5FmHMcp/pDbZ/lh0BceTEbWUM102yBVvW56c8wpg83ENAEbkHur4Zj3steV"
    "NdHjhgcvt+VSkmzsFT84H093RgrtLLGBFBxW2jJIG118Fe6dHx0CxqwC4WEIj9LKuPitJJ7AbcbQ0j6mH6FfghV0w79KDIYucwav"
    "qnAEl5w8UTt5MzBx7PV0iG0NAVpxYIUl/wO31FzufgewqVfnuc9LwXL8wpcCAwEAAaNTMFEwHQYDVR0OBBYEFLr1f372kOlogqOU"
    "bMbiP/OO7pSoMB8GA1UdIwQYMBaAFLr1f372kOlogqOUbMbiP/OO7pSoMA8GA1UdEwEB/wQFMAMBAf8wDQYJKoZIhvcNAQELBQAD"
    "ggEBADV0pfEx7uPFRYB9jfepogyWbBD8haxRrBS9Tyo8KWyvLgnbPbQWYfXht5yvbwX4TgBxafs3EiTg7mmLM3raBGOgfQTrWs+9"
    "eYtwjByz/1tjD3jabVip7PnSuP6StX0P+CrI7GVYjnZZVCG0daN5bphPPib10cwB+IADOYxnwfIH5CC3e8cSX36Cef7ut4ycwTa6"
    "3hpXxWRfMtaDptzTnidxmzfwE99TDtGXucgAPKOj15/l7eYSAIiCSonYjdcQm8Y7SAv7J5tFdOE0twwWcCXvGNiu4eoVyWJzg4Ym"
    "MkpmyENa1BZEP/1wDHnOUenvn0JTA8ZcVbeCYq841KYmMlE="
)
_SHA256_PREFIX = bytes.fromhex("3031300d060960864801650304020105000420")


def certificate_pem() -> str:
    lines = [CERTIFICATE[at : at + 64] for at in range(0, len(CERTIFICATE), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def token(repository: str, *, service: str, issuer: str) -> str:
    """Return a JSON web token (RS256) that lets its bearer pull and push one repository for an hour."""
    now = int(time.time())
    claims = {
        "iss": issuer, "sub": "someone", "aud": service, "exp": now + 3600, "nbf": now - 60, "iat": now, "jti": "1",
        "access": [{"type": "repository", "name": repository, "actions": ["pull", "push"]}],
    }  # fmt: skip
    head = {"typ": "JWT", "alg": "RS256", "x5c": [CERTIFICATE]}
    signed = f"{_url64(json.dumps(head).encode())}.{_url64(json.dumps(claims).encode())}"
    summed = _SHA256_PREFIX + hashlib.sha256(signed.encode()).digest()
    padded = b"\0\1" + b"\xff" * (256 - 3 - len(summed)) + b"\0" + summed
    signature = pow(int.from_bytes(padded, "big"), EXPONENT, MODULUS).to_bytes(256, "big")
    return f"{signed}.{_url64(signature)}"


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
