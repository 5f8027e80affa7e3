"""Every odd input of tests/odd_inputs, one test each."""

import importlib
import pkgutil

import odd_inputs
import pytest
from odd_inputs import Odd, Refused

from wavedp.errors import UserError

CASES: list[Odd] = [
    case
    for module in pkgutil.iter_modules(odd_inputs.__path__)
    for case in importlib.import_module(f"odd_inputs.{module.name}").CASES
]


@pytest.mark.parametrize("odd", CASES, ids=[case.name for case in CASES])
def test_an_odd_input_works_or_is_refused_in_one_sentence(odd: Odd, tmp_path):
    if not odd.says:
        odd.act(tmp_path)
        return
    with pytest.raises((UserError, Refused)) as refusal:
        odd.act(tmp_path)
    sentence = str(refusal.value)
    assert "\n" not in sentence.strip(), sentence
    assert all(part in sentence for part in odd.says), sentence


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)
