"""Addresses of clusters that are none."""

import socket

from odd_inputs import Odd
from sweeps.machines import refuse_unanswered


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


PORT = free_port()


def asked(address: str) -> object:
    return lambda folder: refuse_unanswered(address)


CASES = [
    Odd("a port where nothing listens", asked(f"127.0.0.1:{PORT}"), (f"127.0.0.1:{PORT}", "nothing answers")),
    Odd("a port that is none", asked("127.0.0.1:99999"), ("127.0.0.1:99999", "nothing answers")),
    Odd("a host that is not known", asked("nowhere.invalid:6379"), ("nowhere.invalid:6379", "nothing answers")),
    Odd("an address of Ray Client", asked("ray://127.0.0.1:10001"), ("ray://127.0.0.1:10001", "host:port")),
    Odd("an address without a port", asked("hello"), ("ray.address=hello", "host:port")),
    Odd("an IPv6 address", asked(f"[::1]:{PORT}"), (f"[::1]:{PORT}", "nothing answers")),
]
