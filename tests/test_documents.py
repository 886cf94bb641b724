"""The documents and the code agree on where things are: citations, links, no leftovers of where they came from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("core", "packages", "tests", "bench", "docs")
PAPERS = sorted(path.parent.name for path in (ROOT / "packages").glob("*/PAPER.md"))

_REFERENCE = r"(?:\d+(?:\.\d+)*|P\d+b?)(?![\w-])"
CITATION = re.compile(
    rf"\b(docs/protocol|(?:{'|'.join(PAPERS)})/PAPER)(?!\.md)((?:(?: |, | and | or | to ){_REFERENCE})*)(\w*)"
)
"""`docs/protocol 2.3`, `ecfd/PAPER 3.4 and 3.10`; the last group is what a malformed one goes on with."""
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_ANCHOR = re.compile(r'<a id="([^"]+)">')
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_MADE = ("build", "node_modules")


def texts(*suffixes: str) -> Iterator[Path]:
    """Yield the repository's own files, without builds and environments."""
    yield from (path for path in ROOT.iterdir() if path.suffix in suffixes)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            inside = path.relative_to(ROOT).parts
            if path.suffix in suffixes and not any(part.startswith(".") or part in _MADE for part in inside):
                yield path


def citations(text: str) -> Iterator[tuple[str, list[str], str]]:
    """Yield (document, its cited sections, what follows without a space); citations may be broken over lines."""
    for match in CITATION.finditer(re.sub(r"\s*\n[\s#]*", " ", text)):
        yield match[1], re.findall(_REFERENCE, match[2]), match[3]


@cache
def sections(document: str) -> frozenset[str]:
    """Return the numbers of a document's headings and its labels, such as 3.4 and P1."""
    path = ROOT / ("docs/protocol.md" if document == "docs/protocol" else f"packages/{document}.md")
    text = path.read_text("utf-8")
    numbers = (re.match(r"(\d+(?:\.\d+)*) ", heading) for heading in _HEADING.findall(text))
    return frozenset(number[1] for number in numbers if number) | frozenset(_ANCHOR.findall(text))


@cache
def anchors(path: Path) -> frozenset[str]:
    """Return what a link to a page may have after #: GitHub's form of its headings, and explicit anchors."""
    text = path.read_text("utf-8")
    found: list[str] = []
    for heading in _HEADING.findall(_CODE.sub(lambda code: "" if code[0].startswith("```") else code[0], text)):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).replace(" ", "-")
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return frozenset(found) | frozenset(_ANCHOR.findall(text))


def test_citations_are_found_in_every_form() -> None:
    text = (
        "see ecfd/PAPER 3.4, 3.10 and 5).\n    # or (memorynet/PAPER\n    # P1) iiwa/PAPERs 2; docs/protocol 2.3. Then"
    )
    assert list(citations(text)) == [
        ("ecfd/PAPER", ["3.4", "3.10", "5"], ""),
        ("memorynet/PAPER", ["P1"], ""),
        ("iiwa/PAPER", [], "s"),
        ("docs/protocol", ["2.3"], ""),
    ]


def test_every_citation_resolves_to_a_section() -> None:
    wrong: list[str] = []
    count = 0
    for path in texts(".py", ".md"):
        if path == Path(__file__):
            continue
        for document, cited, rest in citations(path.read_text("utf-8")):
            count += 1
            missing = [number for number in cited if number not in sections(document)]
            if missing or rest:
                wrong.append(f"{path.relative_to(ROOT)}: {document}{rest} {', '.join(missing)}")
    assert count > 150
    assert not wrong, "\n".join(wrong)


def test_nothing_cites_a_folder_outside_the_repository() -> None:
    outside = "spec" + "s/"
    assert [str(path) for path in texts(".py", ".md", ".toml") if outside in path.read_text("utf-8")] == []


PAGES = list(texts(".md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    wrong: list[str] = []
    for link in _LINK.findall(_CODE.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert not wrong, f"{page.relative_to(ROOT)}: {', '.join(wrong)}"
