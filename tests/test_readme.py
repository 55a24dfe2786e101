"""The pages: what they name exists, and both languages have the same figures."""

import nice
import sample

import re
from pathlib import Path

import pytest

ROOT = Path(nice.__file__).parent
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "docs" / "README.zh.md"
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")]


def commands(text):
    """The lines of all blocks of code, without comments."""
    lines = [
        block.splitlines() for block in re.findall(r"```\w+\n(.*?)```", text, re.S)
    ]
    return [line.split("#")[0].strip() for block in lines for line in block]


def images(text):
    return [Path(path).name for path in re.findall(r'<img src="([^"]+)"', text)]


def formulas(text):
    """The formulas that are more than a letter, whatever their order."""
    text = re.sub(r"\\text\{[^}]*\}", "", text)
    return {f for f in re.findall(r"\$\$.*?\$\$|\$[^$]+\$", text, re.S) if len(f) > 6}


def figures(text):
    """The cells of tables that are numbers."""
    rows = re.findall(r"^\|.*\|$", text, re.M)
    cells = [cell.strip() for row in rows for cell in row.split("|")]
    return [cell for cell in cells if re.fullmatch(r"[−\d., ±]*\d[−\d., ±]*", cell)]


@pytest.mark.parametrize("part", [commands, images, formulas, figures])
def test_both_languages_agree(part):
    english, chinese = (
        part(path.read_text(encoding="utf-8")) for path in (ENGLISH, CHINESE)
    )
    assert english and chinese == english


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_links_to_exists(path):
    links = re.findall(
        r"\]\(([^)]+)\)|src=\"([^\"]+)\"", path.read_text(encoding="utf-8")
    )
    for link in [a or b for a, b in links if not (a or b).startswith("http")]:
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.M)
            assert anchor in [h.lower().replace(" ", "-") for h in headings], link


def test_every_picture_and_recipe_is_explained():
    text = ENGLISH.read_text(encoding="utf-8")
    for name in {*sample.PICTURES, *nice.RECIPES} - {"samples"}:
        assert re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", text), name
    for path in ROOT.glob("examples/[a-z]*.py"):
        assert f"examples.{path.stem}" in text


def test_the_first_python_of_the_page_runs(trained, monkeypatch, tmp_path):
    """On a small model in the place of output/nice.keras."""
    text = ENGLISH.read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.S)[1]
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "nice.keras").write_bytes(
        (trained / "nice.keras").read_bytes()
    )
    monkeypatch.chdir(tmp_path)
    exec(code, {})
