"""Work that is watched in a terminal says how far it is, not too often."""

from wavedp import progress


def test_a_printed_report_has_a_line_a_while_and_one_at_the_end(capsys, monkeypatch):
    now = iter([100.0, 105.0, 110.0, 112.0, 130.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    report = progress.printed("training", every=10)
    for done in (41, 43, 45, 46, 50):  # 2 a 5 s, after 40 were found done
        report(done, 50)
    assert capsys.readouterr().err.splitlines() == ["training: 45 of 50, about 12 s left", "training: 50 of 50"]


def test_one_step_is_one_line(capsys):
    progress.printed("training")(1, 1)
    assert capsys.readouterr().err == "training: 1 of 1\n"
