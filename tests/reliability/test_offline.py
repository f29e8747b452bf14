"""Tests and the Python processes they start can connect only to this machine."""

import os
import socket
import subprocess
import sys
import urllib.request

import pytest

REMOTE = ("192.0.2.1", 9)  # reserved for documentation, no host has it


def test_remote_connections_are_refused():
    with pytest.raises(ConnectionRefusedError, match="tests have no network"):
        socket.create_connection(REMOTE, timeout=1)
    with pytest.raises(OSError, match="tests have no network"):
        urllib.request.urlopen("http://example.org", timeout=1)
    with pytest.raises(ConnectionRefusedError, match="tests have no network"):
        socket.gethostbyname("example.org")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for call in (
            lambda: udp.sendto(b"x", REMOTE),
            lambda: udp.sendmsg([b"x"], [], 0, REMOTE),
            lambda: udp.connect_ex(REMOTE),
            lambda: socket.getnameinfo(REMOTE, 0),
            lambda: socket.gethostbyaddr(REMOTE[0]),
        ):
            with pytest.raises(ConnectionRefusedError, match="tests have no network"):
                call()


def test_child_processes_are_offline_too():
    code = f"import socket; socket.create_connection({REMOTE}, timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "tests have no network" in done.stderr


def test_localhost_is_reachable():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5) as client:
        assert client.getpeername()[0] == "127.0.0.1"


@pytest.mark.network
def test_network_mark_allows_connections():
    assert os.environ["LRA_TESTS_MAY_CONNECT"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        # sends no packet: connecting a UDP socket only stores the address
        udp.connect(REMOTE)
