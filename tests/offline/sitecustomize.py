"""Refuses every connection that would leave this machine.

Python imports this file by its name when it starts, if its folder is on PYTHONPATH: so tests/conftest.py binds its own
process and every Python process that a test starts.
"""

import os
import sys

# set by a test that is marked `network`
PERMISSION = "LRA_TESTS_MAY_CONNECT"
# what sends to an address, and what asks for one or about one
SENDING = ("socket.connect", "socket.sendto", "socket.sendmsg")
ASKING = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")


def stays_here(host: object) -> bool:
    text = host.decode(errors="replace") if isinstance(host, bytes) else str(host or "localhost")
    return text in ("localhost", "::1", "0.0.0.0") or text.startswith(("127.", "::ffff:127."))


def refuse(event: str, arguments: tuple) -> None:
    """Raises ConnectionRefusedError for a host elsewhere; paths of local sockets are no hosts."""
    if event not in (*SENDING, *ASKING) or os.environ.get(PERMISSION):
        return
    address = arguments[-1] if event in SENDING else arguments[0]
    if event in SENDING and not isinstance(address, tuple):
        return
    if isinstance(address, tuple):
        address = address[0]
    if not stays_here(address):
        raise ConnectionRefusedError(
            f"tests have no network: {event} {address!r}; mark the test network if it needs it"
        )


sys.addaudithook(refuse)
