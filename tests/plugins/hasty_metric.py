"""A metric whose declaration imports torch."""

import torch  # noqa: F401
from odd_metrics import Brightness


class Hasty(Brightness):
    """Brightness."""
