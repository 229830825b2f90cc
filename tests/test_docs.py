"""What the documents show is what happens: snippets run, named commands exist, versions agree."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("**/*.md"))]

_BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]*?) -->\n)?^```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?://|#)(?P<target>[^)#\s]+)[^)]*\)")
_MAKE = re.compile(r"`(?:[A-Z]+=\S+ )*make (?P<target>[a-z]+)|^make (?P<line>[a-z]+)", re.MULTILINE)


@dataclass(frozen=True)
class Snippet:
    """One Python block of a page. A comment `<!-- not run: why -->` before it says that it is only compiled."""

    page: Path
    line: int
    code: str
    runs: bool

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(PROJECT)}:{self.line}"

    def compiled(self):
        # Blank lines in front make a traceback name the page's own line.
        return compile("\n" * self.line + self.code, str(self.page), "exec")


def snippets(page: Path) -> list[Snippet]:
    text = page.read_text(encoding="utf-8")
    return [
        Snippet(
            page=page,
            line=text.count("\n", 0, found.start("code")),
            code=found["code"],
            runs=not (found["mark"] or "").startswith("not run:"),
        )
        for found in _BLOCK.finditer(text)
    ]


ALL = [snippet for page in PAGES for snippet in snippets(page)]


@pytest.mark.parametrize("snippet", ALL, ids=lambda snippet: snippet.name)
def test_snippet_runs(snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each Python block of the documents runs by itself, from an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "VLUNA_SERVICE_BASE_URL": "http://127.0.0.1:9/mgt/v1",
        "VLUNA_REALM_ID": "realm-docs",
        "VLUNA_SERVICE_KEY_ID": "key-docs",
        "VLUNA_SERVICE_KEY_SECRET": "c2VjcmV0LWZvci1kb2NzLW9ubHk=",
    }.items():
        monkeypatch.setenv(name, value)
    code = snippet.compiled()
    if snippet.runs:
        exec(code, {"__name__": "__main__"})  # noqa: S102 -- the project's own documents


def test_the_documents_have_snippets():
    """The search for snippets finds some that run, so that the test above can fail."""
    assert any(snippet.runs for snippet in ALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_make_targets_exist(page: Path):
    """Each `make` target that a document names is in the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {found["target"] or found["line"] for found in _MAKE.finditer(page.read_text(encoding="utf-8"))}
    assert set() == named - targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    """Each relative link of a document points at a file of the project."""
    targets = [found["target"] for found in _LINK.finditer(page.read_text(encoding="utf-8"))]
    assert [] == [target for target in targets if not (page.parent / target).exists()]


def test_changelog_opens_with_the_version():
    """The newest entry of the changelog is the version of the package."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    newest = re.search(r"^## \[([^\]]+)\]", (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert project["version"] == newest[1]


def test_contributing_stays_short():
    """CONTRIBUTING fits on two screens."""
    assert len((PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 100
