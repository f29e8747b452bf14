"""How the repository becomes a site (mkdocs): pages keep their paths, so that links work here and there.

Markdown files everywhere become pages, files they link to are copied, each module gets a page from its docstrings, and
formulas become MathML, which browsers draw without a script.
"""

import re
from html import unescape
from pathlib import Path

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("*.md", "docs/*.md", "models/*.md", "data/*.md", "results/*.md", "results/tables/*.md")
MODULES = ("models", "lra/ops", "lra/nn", "lra/training", "lra/objectives", "lra/tables", "lra/records", "data")
LINK = re.compile(r'(?<=\]\()(?!https?:|#)[^)#\s]+|(?<=srcset=")[^":]+(?=")|(?<=src=")[^":]+(?=")')
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def modules() -> dict[str, str]:
    """Path of each module's page -> its dotted name."""
    found = [path for folder in MODULES for path in sorted((ROOT / folder).rglob("*.py")) if path.stem != "__init__"]
    paths = [path.relative_to(ROOT).as_posix() for path in found]
    return {module_page(path): path.removesuffix(".py").replace("/", ".") for path in paths}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """All pages and what they link to, under their paths in the repository."""
    pages = [path.relative_to(ROOT).as_posix() for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    api = modules()
    linked = {target for page in pages for target in targets(page) if module_page(target) not in api} - set(pages)
    kept = [file for file in files if file.src_dir != config.docs_dir]  # the theme's own
    copies = [path for path in sorted(linked) if (ROOT / path).is_file()]
    found = [File.generated(config, path, abs_src_path=str(ROOT / path)) for path in (*pages, *copies)]
    index = "# Modules\n\n" + "".join(f"- [{name}]({name}.md)\n" for name in api.values())
    found.append(File.generated(config, "api/index.md", content=index))
    found += [File.generated(config, path, content=f"# {name}\n\n::: {name}\n") for path, name in api.items()]
    return Files([*kept, *found])


def module_page(path: str) -> str:
    """The page of a Python file: models/s4.py -> api/models.s4.md."""
    return f"api/{path.removesuffix('.py').replace('/', '.')}.md"


def targets(page: str) -> set[str]:
    """Paths, relative to the repository, that a page links to."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return {resolved(page, link) for link in LINK.findall(text)}


def resolved(page: str, link: str) -> str:
    path = (ROOT / page).parent / link
    return path.resolve().relative_to(ROOT).as_posix() if path.resolve().is_relative_to(ROOT) else link


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to code lead to the page of the module."""
    source = page.file.src_uri

    def link(match: re.Match) -> str:
        target = resolved(source, match[0])
        api = module_page(target)
        return "../" * source.count("/") + api if files.get_file_from_path(api) else match[0]

    return LINK.sub(link, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    def formula(match: re.Match) -> str:
        return convert(unescape(match[3]), display="inline" if match[1] == "span" else "block")

    return FORMULA.sub(formula, html)


class PlainDocstrings(griffe.Extension):
    """Docstrings are plain text: the first line is a sentence, the rest keeps its columns."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring is not None:
            first, _, rest = obj.docstring.value.partition("\n")
            rest = rest.strip("\n")
            first = re.sub(r"([*_<\[])", r"\\\1", first)
            obj.docstring.value = f"{first}\n\n```text\n{rest}\n```" if rest else first
