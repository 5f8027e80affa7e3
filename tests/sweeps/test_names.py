"""Names that become paths stay inside the folder that they are meant for, and fit in a file system."""

import pytest

from sweeps.names import LONGEST_NAME, check_name, file_label
from wavedp.errors import UserError

ODD = ["", "  ", "..", ".", ".hidden", "-m", "../x", "a/b", "a\\b", "/tmp/x", "<b>x", "a\nb", "a\u2028b", "a "]


@pytest.mark.parametrize("name", [*ODD, "x" * (LONGEST_NAME + 1)])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(UserError, match="names a folder of records and "):
        check_name("study", name)


@pytest.mark.parametrize("name", ["eps_grid", "2024", "1.5", "ε=1, zwölf", "my study (2)", "x" * LONGEST_NAME])
def test_other_names_stay_as_they_are(name):
    assert check_name("study", name) == name


def test_a_long_label_is_cut_and_keeps_apart_what_it_names():
    label = "case=" + "word " * 60
    assert len(file_label(label)) <= 180
    assert file_label(label) != file_label(label + "more")
    assert file_label("epsilon=1-case=two views") == "epsilon=1-case=two_views"
    assert file_label("x" * 180) == "x" * 180
