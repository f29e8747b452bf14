"""The recorded session of the README: screens of a terminal, drawn as an SVG."""

import importlib.util
import re
import sys
from xml.etree import ElementTree

import pytest

from lra.paths import ROOT
from scripts import demo

SPECIFICATION = importlib.util.spec_from_file_location("session", ROOT / "docs/session.py")
session = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(session)


def test_screens_are_those_of_a_terminal():
    # a bar that is drawn twice below a line, with a code cut in two
    parts = ["one\r\nbar 1", "\r\x1b[2", "Kbar 2", "\r\x1b[2K\x1b[1A\x1b[2Ktwo\r\nbar 3\r\n"]
    found = [lines for _, lines in session.screens(list(enumerate(parts)))]
    assert found == [["one", "bar 1"], ["one", "bar 1"], ["one", "bar 2"], ["two", "bar 3", ""]]


def test_a_command_is_recorded_and_drawn():
    code = "print('\x1b[31mred\x1b[0m & <plain>', flush=True); import time; time.sleep(0.2); print('done')"
    frames = session.frames(session.record([sys.executable, "-c", code]))
    assert len(frames) == session.N_FRAMES + 1
    picture = session.draw("a < b", frames)
    tree = ElementTree.fromstring(picture)
    groups = tree.findall("{http://www.w3.org/2000/svg}g")
    assert ["done" in "".join(group.itertext()) for group in groups] == [False] * session.N_FRAMES + [True]
    assert all("red" in "".join(group.itertext()) for group in groups[1:])
    assert "$ a < b" in "".join(groups[0].itertext())
    assert re.search(r'fill="#\w{6}">red<', picture)
    with pytest.raises(RuntimeError, match="exit status 3"):
        session.record([sys.executable, "-c", "raise SystemExit(3)"])


def test_picture_of_the_readme_is_of_the_demo():
    assert "docs/figures/demo.svg" in (ROOT / "README.md").read_text()
    tree = ElementTree.parse(ROOT / "docs/figures/demo.svg").getroot()
    last = "".join(tree.findall("{http://www.w3.org/2000/svg}g")[-1].itertext())
    for words in (
        "$ make demo",
        "Long Range Arena, in small",
        f"{demo.DEMO}/report.html",
        "ListOps",
        "Pathfinder",
        "S4",
    ):
        assert words in last
