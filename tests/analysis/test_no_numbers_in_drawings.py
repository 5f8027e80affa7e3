"""Modules that draw hold no data: every number of a figure comes from records.

Read from the syntax tree of each module of analysis that imports plotly or PIL. A list, tuple, set or dict of three or
more numbers is refused, also a nested or added one, `dict(a=1, …)`, and a text of numbers. Allowed is what lays out a
figure: several constants that get names in capitals, a dict of plotly's own settings, and one by a paper's columns.
"""

from __future__ import annotations

import ast
import importlib.resources
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ANALYSIS = Path(__file__).parents[2] / "analysis"
MOST = 2
TEXT_OF_NUMBERS = re.compile(r"\s*-?[\d.]+(e-?\d+)?([\s,;]+-?[\d.]+(e-?\d+)?){2,}\s*")
ALLOWED = {("epsilon_axis", "decimal_steps"): "1, 2, 5 are the steps of an axis"}


def plotly_settings() -> set[str]:
    """Names of plotly's attributes that hold no data."""
    text = importlib.resources.files("plotly.validators").joinpath("_validators.json").read_text(encoding="utf-8")
    return {
        name.rpartition(".")[2]
        for name, about in json.loads(text).items()
        if about["superclass"] != "DataArrayValidator"
    }


SETTINGS = plotly_settings()


def drawing_modules() -> list[Path]:
    return [
        path
        for path in sorted(ANALYSIS.glob("*.py"))
        if any(module.split(".")[0] in ("plotly", "PIL") for module in imported(ast.parse(path.read_text("utf-8"))))
    ]


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def count(node: ast.AST) -> int:
    """Numbers in a literal, without those of settings in it."""
    if isinstance(node, ast.Constant):
        return int(isinstance(node.value, int | float | complex) and not isinstance(node.value, bool))
    if isinstance(node, ast.UnaryOp):
        return count(node.operand)
    if isinstance(node, ast.Starred):
        return count(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return count(node.left) + count(node.right)
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return sum(map(count, node.elts))
    if isinstance(node, ast.Dict):
        return 0 if is_settings(node) else sum(count(each) for each in (*filter(None, node.keys), *node.values))
    return 0


def is_settings(node: ast.Dict) -> bool:
    keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys if key is not None]
    by_columns = keys == [1, 2] and all(count(value) <= MOST for value in node.values)
    return by_columns or (
        bool(keys) and all(isinstance(key, str) and SETTINGS.issuperset(key.split("_")) for key in keys)
    )


def literals(source: str, module: str = "") -> list[str]:
    """The literals of numbers that are refused, as they are written."""
    tree = ast.parse(source)
    fine: set[ast.AST] = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Tuple)
            and isinstance(node.value, ast.Tuple)
        ):
            names = [target.id for target in node.targets[0].elts if isinstance(target, ast.Name)]
            if len(names) == len(node.value.elts) and all(name.isupper() for name in names):
                fine.add(node.value)
        if isinstance(node, ast.FunctionDef) and (module, node.name) in ALLOWED:
            fine.update(ast.walk(node))
        if isinstance(node, ast.JoinedStr):  # the formats of an f-string
            fine.update(ast.walk(node))
    found = []
    for node in (node for node in ast.walk(tree) if node not in fine):
        containers = ast.List | ast.Tuple | ast.Set | ast.Dict | ast.BinOp
        refused = isinstance(node, containers) and count(node) > MOST and not is_sum(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
            refused = sum(count(word.value) for word in node.keywords if word.arg not in SETTINGS) > MOST
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            refused = bool(TEXT_OF_NUMBERS.fullmatch(node.value))
        if refused:
            found.append(ast.unparse(node))
    return found


def is_sum(node: ast.AST) -> bool:
    """An addition of numbers, not of lists."""
    if not isinstance(node, ast.BinOp):
        return False
    return not any(isinstance(part, ast.List | ast.Tuple) for part in ast.walk(node))


@pytest.mark.parametrize("path", drawing_modules(), ids=lambda path: path.stem)
def test_a_drawing_module_holds_no_data(path: Path) -> None:
    assert literals(path.read_text("utf-8"), path.stem) == []


def test_all_that_draw_are_read() -> None:
    names = {path.stem for path in drawing_modules()}
    assert {path.stem for path in ANALYSIS.glob("*_figure.py")} <= names
    assert {"blur_figures", "samples", "epsilon_axis", "paper_page", "spectra_page", "ablation_page"} <= names


@pytest.mark.parametrize(
    "source",
    [
        "figure.add_scatter(x=[1, 3, 10], y=values)",
        "FID = (148.0, 126.0, 112.0)",
        "values = {1.0: 148.0, 3.0: 126.0}",
        "values = {'bicubic': 148.0, 'lanczos': 126.0, 'nearest': 99.0}",
        "values = dict(bicubic=148.0, lanczos=126.0, nearest=99.0)",
        "points = [(1, 148.0), (3, 126.0)]",
        "y = [-1.0] + [2.0, 3.0]",
        "y = [1.0, 2.0, *[3.0]]",
        "y = np.array('148 126 112'.split(), dtype=float)",
        "figure.add_scatter(**{'x': [1, 2, 3], 'mode': 'lines'})",
        "A, B = [1, 2, 3], [4, 5, 6]",
        "a, b, c = 148.0, 126.0, 112.0",
        "y = {148.0, 126.0, 112.0}",
        "rows = {1: (148.0, 126.0, 112.0), 2: ()}",
    ],
)
def test_data_in_a_drawing_are_refused(source: str) -> None:
    assert literals(source)


@pytest.mark.parametrize(
    "source",
    [
        "TOP, LEFT, RIGHT = 40, 50, 60",
        "WIDTHS = {1: 324, 2: 680}",
        "SHARES = {1: (0.6, 0.4), 2: (0.7, 0.3)}",
        "margin = {'t': 10, 'b': 20, 'l': 30, 'r': 40}",
        "figure.add_annotation(x=0, y=1, xshift=5, yshift=-3, text='a')",
        "figure.update_xaxes(range=[0, 1])",
        "colours = ('#0072B2', '#D55E00', '#009E73')",
        "height = TOP + 3 * 12 + 4 + 5",
        "text = f'{a:.3g} 1 {b:.2f}'",
    ],
)
def test_layout_is_no_data(source: str) -> None:
    assert literals(source) == []
