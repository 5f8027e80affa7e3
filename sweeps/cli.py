"""The command `wavedp`: short names for the commands of this house, each of which is also `python -m MODULE`.

wavedp sweep +sweep=eps_grid      wavedp report runs/eps_grid      wavedp sweep --help
"""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import sys
from pathlib import Path

from wavedp.command import command
from wavedp.errors import UserError, nearest

COMMANDS = {
    "sweep": "sweeps.run",
    "run": "wavedp.run",
    "sample": "wavedp.sample",
    "export": "sweeps.export",
    "publish": "sweeps.publish",
    "report": "analysis.report",
    "compare": "analysis.compare",
    "figures": "analysis.figures",
    "ledger": "wavedp.privacy.ledger",
    "audit": "wavedp.audit",
    "metrics": "wavedp.metrics",
    "data": "wavedp.data.get",
    "zoo": "wavedp.zoo",
}


@command
def main() -> int:
    """Run the command that is named first, as `python -m` would; without one, list them."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "help"):
        print(listed())
        return 0
    name = sys.argv[1]
    if name not in COMMANDS:
        raise UserError(f"wavedp {name} is not a command: {nearest(name, COMMANDS)}")
    sys.argv[:2] = [f"wavedp {name}"]
    sys.path.insert(0, "")  # as `python -m` has it, for methods in the folder where one stands
    runpy.run_module(COMMANDS[name], run_name="__main__")
    return 0


def listed() -> str:
    """Every command with the first sentence that its module says of itself."""
    lines = [f"  {name:<9} {_about(module)}" for name, module in COMMANDS.items()]
    return "\n".join(["wavedp COMMAND [arguments], or COMMAND --help:", *lines])


def _about(module: str) -> str:
    """The first sentence of a module's docstring, which is read and not imported."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin)
    path = path.with_name("__main__.py") if path.name == "__init__.py" else path
    said = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].replace("\n", " ")
    own = re.sub(r"^python -m [^:]*: ", "", said)  # what follows the command, or stands before it
    return re.split(r":\s+`?python -m|\. ", own)[0].rstrip(".:")


if __name__ == "__main__":
    sys.exit(main())
