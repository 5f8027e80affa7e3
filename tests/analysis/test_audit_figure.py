"""The figure of an audit: what it draws, from which files, and what it refuses."""

import json
import math

import numpy as np
import pytest

from analysis import audit_figure
from analysis.audit_figure import audit_data, limit
from wavedp.errors import UserError

CURVES = ("step", "fit", "images, loss", "canaries, loss")


@pytest.fixture
def folder(tmp_path):
    settings = {"draws": 1000, "canaries": 200, "steps": 4, "attack": {"canaries": 50}}
    about = {"kind": "about", "delta": 1e-5, "records": 60, "data": "procedural", "settings": settings}
    sabotages = [{"kind": "sabotage", "sabotage": name, "rejected": name is not None} for name in (None, "a", "b")]
    curves = [
        {"curve": name, "claim": claim, "n": 100, "fpr": [0.0, 0.0, 0.1, 1.0], "tpr": [0.0, 0.05, 0.3, 1.0]}
        for claim in (4.0, 1.0, "inf")
        for name in CURVES[2 * (claim == "inf") :]
    ]
    for name, rows in (("audit", [about, *sabotages]), ("roc", curves)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_there_is_a_panel_for_each_claim_with_its_limit(folder):
    data = audit_data(folder)
    assert data.claims == [1.0, 4.0, math.inf]
    figure = audit_figure.audit_figure(data)
    assert [note.text for note in figure.layout.annotations[:3]] == ["ε = 1", "ε = 4", "ε = ∞"]
    black = [trace for trace in figure.data if trace.name == "limit of (ε, δ)"]
    assert len(black) == 3
    assert black[0].y[0] == pytest.approx(math.e * 1e-5 + 1e-5)
    assert len(figure.data) == 2 * 3 + 4 + 4 + 2
    assert [trace.showlegend for trace in figure.data].count(False) == len(figure.data) - 2 - len(CURVES)
    assert all(min(trace.x) > 0 and min(trace.y) > 0 for trace in figure.data)  # the axes are logarithmic


def test_the_caption_says_what_was_audited_and_what_a_bound_of_zero_is(folder):
    data = audit_data(folder)
    for part in ("δ = 1e-5", "1000 draws", "200 canaries", "2 of 2 sabotaged", "no evidence of privacy"):
        assert part in data.caption
    assert set(data.provenance) == {"audit_sha256", "roc_sha256"}


def test_the_limit_is_the_trade_off_of_epsilon_and_delta():
    fpr = np.array([0.0, 0.001, 0.2, 1.0])
    expected = [1e-5, math.exp(1) * 0.001 + 1e-5, min(math.exp(1) * 0.2 + 1e-5, 1 - math.exp(-1) * (0.8 - 1e-5)), 1.0]
    np.testing.assert_allclose(limit(fpr, 1.0, 1e-5), expected)
    assert (limit(fpr, math.inf, 1e-5) == 1).all()
    np.testing.assert_allclose(limit(fpr, 0.0, 0.0), fpr)


def test_the_command_writes_beside_the_records(folder, capsys):
    assert audit_figure.main([str(folder)]) == 0
    assert (folder / "figures" / "audit.html").is_file()
    assert json.loads((folder / "figures" / "audit.json").read_text())["layout"]["meta"]["roc_sha256"]
    assert "audit.html" in capsys.readouterr().out


def test_what_is_no_audit_is_a_sentence(folder, capsys):
    (folder / "roc.jsonl").unlink()
    assert audit_figure.main([str(folder)]) == 2
    assert "has no roc.jsonl: run python -m wavedp.audit" in capsys.readouterr().err
    (folder / "roc.jsonl").write_text("")
    (folder / "audit.jsonl").write_text('{"kind": "bound"}\n')
    with pytest.raises(UserError, match="does not begin with a line of kind about"):
        audit_data(folder)
