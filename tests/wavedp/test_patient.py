"""A store that is away for a while: its calls wait, its answers do not."""

import fsspec
import pytest

from wavedp.store import Draft, Store, patient

KEY = "ab" * 32


class EndpointConnectionError(Exception):
    """As botocore calls an address where nobody listens; it is no OSError."""


class NoCredentialsError(Exception):
    """Likewise, without a key."""


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(patient, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(patient, "LONGEST_PAUSE", 0.002)
    yield Store("memory://patient")
    fsspec.filesystem("memory").store.clear()


def away(store, monkeypatch, error, times):
    """Let every call fail that often, before it reaches the store. Returns the list of failures."""
    failed = []

    def failing(call):
        def fail_first(*arguments, **options):
            if len(failed) < times:
                failed.append(call.__name__)
                raise error
            return call(*arguments, **options)

        return fail_first

    for name in patient.CALLS:
        monkeypatch.setattr(store.raw, name, failing(getattr(store.raw, name)))
    return failed


def draft():
    made = Draft()
    made.json("note", {"value": 1})
    return made


@pytest.mark.parametrize(
    "error", [EndpointConnectionError("x"), ConnectionResetError(), TimeoutError(), OSError(5, "I/O")]
)
def test_what_was_asked_waits_until_the_store_is_back(store, monkeypatch, caplog, error):
    failed = away(store, monkeypatch, error, 7)
    assert store.publish("fit", KEY, draft()).json("note") == {"value": 1}
    assert len(failed) == 7
    assert "the store does not answer" in caplog.text
    failed.clear()
    assert store.open("fit", KEY).json("note") == {"value": 1}
    assert len(failed) == 7


def test_one_that_stays_away_is_an_error(store, monkeypatch):
    monkeypatch.setattr(patient, "PATIENCE", 0.05)
    away(store, monkeypatch, EndpointConnectionError("nobody there"), 10**6)
    with pytest.raises(EndpointConnectionError, match="nobody there"):
        store.open("fit", KEY)


@pytest.mark.parametrize("error", [FileExistsError(), PermissionError(13, "denied"), NoCredentialsError("no key")])
def test_an_answer_is_taken_at_once(store, monkeypatch, error):
    failed = away(store, monkeypatch, error, 3)
    with pytest.raises(type(error)):
        store.get("studies/x")
    assert len(failed) == 1


def test_an_absent_object_is_an_answer(store, monkeypatch):
    assert store.open("fit", KEY) is None
    assert not store.has("fit", KEY)
    with pytest.raises(FileNotFoundError):
        store.get("nothing")


def test_the_first_contact_is_without_patience(store, monkeypatch):
    failed = away(store, monkeypatch, EndpointConnectionError("wrong address"), 10**6)
    with pytest.raises(Exception, match=r"cannot be written \(EndpointConnectionError: wrong address\)"):
        store.require_writable()
    assert len(failed) == 1
