"""What others may not read, encrypted (AES-256-GCM): changed, cut off or moved to another place, it does not open."""

from __future__ import annotations

import secrets
from typing import Any

from wavedp import extras

NONCE = 12  # bytes, drawn anew for each content


class Seal:
    """secret: 64 hexadecimal digits. what: who needs the package for encryption. Raises UserError where it is not
    installed."""

    def __init__(self, secret: str, what: str) -> None:
        extras.require(what, "cryptography")
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher: Any = AESGCM(bytes.fromhex(secret))

    def close(self, content: bytes, place: str) -> bytes:
        """The content, bound to a place. At most 2 GB."""
        nonce = secrets.token_bytes(NONCE)
        return nonce + self._cipher.encrypt(nonce, content, place.encode())

    def open(self, content: bytes, place: str) -> bytes:
        """What was closed. Raises cryptography's InvalidTag for anything else."""
        return self._cipher.decrypt(content[:NONCE], content[NONCE:], place.encode())
