"""The pages: what they name exists, and both languages have the same figures."""

from support import data

import layers
import nice
import sample

import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

ROOT = Path(nice.__file__).parent
ENGLISH = ROOT / "README.md"
GUIDE = ROOT / "docs" / "guide.md"
PAIRS = [
    (ENGLISH, ROOT / "docs" / "README.zh.md"),
    (ROOT / "docs" / "lesson.md", ROOT / "docs" / "lesson.zh.md"),
]
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


def headings(text):
    """The levels of the headings, in their order."""
    return [len(marks) for marks in re.findall(r"^(#+) ", text, re.M)]


@pytest.mark.parametrize("part", [commands, images, formulas, figures, headings])
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].stem)
def test_both_languages_agree(part, pair):
    english, chinese = (part(path.read_text(encoding="utf-8")) for path in pair)
    assert chinese == english


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
    """On one of the pages."""
    english = [path for path in PAGES if not path.stem.endswith(".zh")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in english)
    for name in {*sample.PICTURES, *nice.RECIPES} - {"samples"}:
        assert re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", text), name
    for path in ROOT.glob("examples/[a-z]*.py"):
        assert re.search(rf"`(.*examples\.)?{path.stem}`", text), path.stem


@pytest.mark.parametrize("page", [ENGLISH, GUIDE], ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page, trained, monkeypatch, tmp_path):
    """Block after block, on a small model in the place of output/nice.keras."""
    (x_train, _), (x_test, _) = data.load()
    shutil.copytree(trained, tmp_path / "output")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layers, "PRIORS", dict(layers.PRIORS))  # the guide adds one
    model = nice.load(tmp_path / "output" / "nice.keras")
    names = {"nice": nice, "keras": keras, "np": np, "model": model}
    names |= {"x_train": x_train, "x_test": x_test}
    blocks = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)
    assert blocks
    for block in blocks:
        exec(block, names)
