"""One study on three Ray nodes and an S3 server, of which a worker, the store, a node and the head are struck in turn.
tests/bench/kills.py strikes at ten moments, one study each."""

import pytest
from breakable import PACKAGES, Strike, records, run_struck

for name in PACKAGES:
    pytest.importorskip(name)
STUDY = ["+sweep=smoke", "sweep.grid.epsilon=[10]", "~sweep.grid.upscaler", "sweep.seeds=[0,1]"]
STRIKES = [Strike("worker", "pretrain"), Strike("node", "private_fit", 1), Strike("head", "private_fit", 1)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whatever_dies_the_study_ends_with_the_same_records(tmp_path, monkeypatch):
    monkeypatch.setattr("breakable.AWAY", 5.0)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    calm = run_struck(tmp_path / "calm", STUDY, [], apart=False)
    struck = run_struck(tmp_path / "struck", STUDY, [*STRIKES, Strike("store", "evaluate")], apart=False)
    assert [row["status"] for row in calm] == ["done", "done"]
    assert struck == calm
    ledgers = [records(tmp_path / name, "ledger.jsonl") for name in ("calm", "struck")]
    assert ledgers[0] == ledgers[1]
    released = [line["stage_key"] for line in ledgers[1] if line["kind"] == "dp_sgd"]
    assert len(set(released)) == len(released) == 2
