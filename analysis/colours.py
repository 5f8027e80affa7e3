"""The colours of all figures."""

from __future__ import annotations

# Okabe and Ito's palette for all kinds of colour vision, without yellow (weak on white) and black (used for text).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GREY, INK, FAINT = "#8a8a8a", "#222222", "#c8c8c8"


def pale(colour: str) -> str:
    """The colour of a band: nearly transparent."""
    return f"rgba({','.join(str(channel) for channel in bytes.fromhex(colour[1:]))},0.16)"
