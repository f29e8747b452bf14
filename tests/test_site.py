"""The documentation as a site: every link works, formulas are drawn without a script, modules have pages."""

import html.parser
import importlib.util
import subprocess
import sys
from urllib.parse import unquote

import pytest

from lra.paths import ROOT

SPEC = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site.py")
site = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(site)


class Addresses(html.parser.HTMLParser):
    """Addresses that a page links to or loads."""

    def __init__(self, text: str):
        super().__init__()
        self.found: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found |= {value for name, value in attrs if name in ("href", "src", "srcset") and value}


def test_links_of_a_page_are_paths_of_the_repository():
    found = site.targets("docs/s4.md")
    assert {"models/s4.py", "docs/figures/kernels.png", "results/tables/mini.md"} <= found
    assert all((ROOT / path).exists() for path in found)
    assert {"docs/figures/results-dark.svg", "docs/figures/page.png"} <= site.targets("README.md")


def test_modules_have_pages():
    assert site.modules()["api/lra.ops.hippo.md"] == "lra.ops.hippo"
    assert site.module_page("models/s4.py") in site.modules()
    assert not any(name.endswith("__init__") for name in site.modules().values())


def test_formulas_become_mathml():
    drawn = site.on_page_content(r'<p><span class="arithmatex">\(x &lt; \bar A\)</span></p>', None, None, None)
    assert drawn.startswith("<p><math")
    assert "arithmatex" not in drawn


@pytest.mark.nightly
def test_site_is_built_and_its_links_work(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 100
    for page in pages:
        for address in Addresses(page.read_text(encoding="utf-8")).found:
            target, _, _ = address.partition("#")
            if target and ":" not in target and page.name != "404.html":
                assert (page.parent / unquote(target)).exists(), f"{page}: {address}"
    formula = (tmp_path / "docs" / "s4.html").read_text(encoding="utf-8")
    assert formula.count("<math") > 20
    assert "\\(" not in formula
