"""Tests have no network beyond this machine, and neither have the processes they start."""

import http.server
import os
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest

ELSEWHERE = ("192.0.2.1", 9)  # set aside for documentation: nobody is there


def test_a_connection_elsewhere_is_refused():
    with pytest.raises(ConnectionRefusedError, match="tests have no network"):
        socket.create_connection(ELSEWHERE, timeout=1)
    with pytest.raises(OSError, match="tests have no network"):
        urllib.request.urlopen("http://example.org", timeout=1)
    with pytest.raises(ConnectionRefusedError, match="tests have no network"):
        socket.gethostbyname("example.org")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unconnected:
        for ask in (
            lambda: unconnected.sendto(b"x", ELSEWHERE),
            lambda: unconnected.sendmsg([b"x"], [], 0, ELSEWHERE),
            lambda: unconnected.connect_ex(ELSEWHERE),
            lambda: socket.getnameinfo(ELSEWHERE, 0),
            lambda: socket.gethostbyaddr(ELSEWHERE[0]),
        ):
            with pytest.raises(ConnectionRefusedError, match="tests have no network"):
                ask()


def test_a_process_started_by_a_test_is_bound_too():
    code = f"import socket; socket.create_connection({ELSEWHERE}, timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "tests have no network" in done.stderr


def test_this_machine_can_be_reached():
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with socket.create_connection(server.server_address, timeout=5) as there:
            assert there.getpeername()[0] == "127.0.0.1"


@pytest.mark.network
def test_a_marked_test_may_connect():
    assert os.environ["LRA_TESTS_MAY_CONNECT"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unconnected:
        # no packet is sent: a datagram socket only notes the address
        unconnected.connect(ELSEWHERE)
