"""Names that become paths: of studies and sweeps, and of trials."""

from __future__ import annotations

import hashlib
import re

from wavedp.errors import UserError

LONGEST_NAME = 100
LONGEST_LABEL = 180
"""A file name has 255 bytes, of which a trial's key, a suffix and the name of a temporary file need some."""


def check_name(what: str, name: object) -> str:
    """The name of a study or sweep. Raises UserError for one that is not the plain name of a folder.

    An empty name, `..` or `a/b` would write somewhere else, `-m` be read as an option, and `<b>` as markup.
    """
    text = str(name)
    odd = re.search(r"[^\w .,=+()@-]", text)
    if not text.strip():
        why = "is empty"
    elif odd:
        why = f"has {odd[0]!r}, and a name has letters, digits, spaces and .,=+()@_-"
    elif text != text.strip() or text[0] in ".-":
        why = f"begins or ends with {text[0] if text[0] in '.-' else ' '!r}"
    elif len(text) > LONGEST_NAME:
        why = f"has {len(text)} characters, and a name has at most {LONGEST_NAME}"
    else:
        return text
    raise UserError(f"{what}={text[:40]!a} names a folder of records and {why}: choose another name.")


def file_label(label: str) -> str:
    """What a trial's name begins with: the label in characters that any file system takes. One that is too long for a
    file's name is cut, and ends in a hash of all of it."""
    safe = re.sub(r"[^A-Za-z0-9=._-]+", "_", label)
    if len(safe) <= LONGEST_LABEL:
        return safe
    return f"{safe[: LONGEST_LABEL - 9]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
