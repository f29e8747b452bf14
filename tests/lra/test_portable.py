"""What leaves this machine holds no path of it, and nothing else is touched."""

import base64
import random

from lra.portable import portable


def test_pictures_in_base64_are_no_paths():
    random.seed(0)
    for _ in range(500):
        text = base64.b64encode(b"\x89PNG" + random.randbytes(300)).decode()
        assert portable(text) == text


def test_paths_are_cut_to_their_names():
    assert portable("log: /home/me/runs/0.log and data.root=/mnt/x/y") == "log: …/0.log and data.root=…/y"
