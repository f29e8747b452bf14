"""Refuses every network connection that leaves this machine.

Python imports a module of this name when it starts, if its folder is on PYTHONPATH. tests/conftest.py puts it there,
so the block covers the test process and every Python process that a test starts.
"""

import os
import sys

# set for tests marked `network`
PERMISSION = "LRA_TESTS_MAY_CONNECT"
# audit events that send to an address, and those that look one up
SENDING = ("socket.connect", "socket.sendto", "socket.sendmsg")
LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")


def is_local(host: object) -> bool:
    text = host.decode(errors="replace") if isinstance(host, bytes) else str(host or "localhost")
    return text in ("localhost", "::1", "0.0.0.0") or text.startswith(("127.", "::ffff:127."))


def refuse_remote(event: str, arguments: tuple) -> None:
    """Raise ConnectionRefusedError for a remote host. Unix sockets (their address is a path) are allowed."""
    if event not in (*SENDING, *LOOKUPS) or os.environ.get(PERMISSION):
        return
    address = arguments[-1] if event in SENDING else arguments[0]
    if event in SENDING and not isinstance(address, tuple):
        return
    if isinstance(address, tuple):
        address = address[0]
    if not is_local(address):
        raise ConnectionRefusedError(f"tests have no network: {event} {address!r}; hint: mark the test `network`")


sys.addaudithook(refuse_remote)
