"""Methods of somebody else's, as packages that are installed (tests/plugins)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "plugins"))
