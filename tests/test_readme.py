"""The README: what it names exists, and both languages say the same where it can be compared."""

import ast
import re
import sys
from pathlib import Path

import pytest

import nice
import sample

ROOT = Path(nice.__file__).parent
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "docs" / "README.zh.md"


def commands(text):
    """The lines of all blocks of code, without comments."""
    lines = [block.splitlines() for block in re.findall(r"```\w+\n(.*?)```", text, re.S)]
    return [line.split("#")[0].strip() for block in lines for line in block]


def pictures(text):
    return [Path(path).name for path in re.findall(r'<img src="([^"]+)"', text)]


def equations(text):
    """The numbers of the equations, in order, where a section names some: a set a section."""
    found = []
    for section in text.split("\n## "):
        numbers = set()
        for named in re.findall(r"(?:[Ee]qs?\.|式) ?((?:\d+(?:, | and |、|和|–)?)+)", section):
            for first, last in re.findall(r"(\d+)(?:–(\d+))?", named):
                numbers |= set(range(int(first), int(last or first) + 1))
        for first, last in re.findall(r"^\| (\d+)(?:–|, |、)?(\d*) \|", section, re.M):
            numbers |= set(range(int(first), int(last or first) + 1))
        found.append(numbers)
    return found


def formulas(text):
    """The formulas that are more than a letter, whatever their order."""
    text = re.sub(r"\\text\{[^}]*\}", "", text)
    return {f for f in re.findall(r"\$\$.*?\$\$|\$[^$]+\$", text, re.S) if len(f) > 6}


def figures(text):
    """The cells of tables that are numbers."""
    cells = [
        cell.strip() for line in re.findall(r"^\|.*\|$", text, re.M) for cell in line.split("|")
    ]
    return [cell for cell in cells if re.fullmatch(r"[−\d., ±]*\d[−\d., ±]*", cell)]


@pytest.mark.parametrize("part", [commands, pictures, equations, formulas, figures])
def test_both_languages_agree(part):
    english, chinese = (part(path.read_text(encoding="utf-8")) for path in (ENGLISH, CHINESE))
    assert english and chinese == english


@pytest.mark.parametrize(
    "path", [ENGLISH, CHINESE, *ROOT.glob("*/README.md"), ROOT / "docs/results.md"]
)
def test_what_a_page_links_to_exists(path):
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text)
    links = [a or b for a, b in links]
    for link in links:
        file, _, anchor = link.partition("#")
        if not file.startswith("http"):
            target = path.parent / file if file else path
            assert target.exists(), link
            if anchor:
                headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.M)
                assert anchor in [h.lower().replace(" ", "-") for h in headings], link


def test_every_picture_of_sample_py_is_explained():
    named = {
        word
        for code in re.findall(r"`[^`\n]+`", ENGLISH.read_text("utf-8"))
        for word in code.strip("`").split()
    }
    assert set(sample.PICTURES) - {"samples"} <= named


def test_every_recipe_is_explained():
    text = ENGLISH.read_text(encoding="utf-8")
    assert all(f"| `{name}`" in text for name in nice.RECIPES)


def test_the_standard_error_is_explained():
    assert "standard error of the mean over the images" in ENGLISH.read_text(encoding="utf-8")
    assert "标准误" in CHINESE.read_text(encoding="utf-8")


def test_this_python_is_one_of_those_named():
    text = ENGLISH.read_text(encoding="utf-8")
    (named,) = re.findall(r"It needs Python ([\d., or\n]+),", text)
    assert "{}.{}".format(*sys.version_info) in re.findall(r"3\.\d+", named)


def test_nothing_needs_what_windows_lacks():
    for path in [*ROOT.glob("*.py"), *ROOT.glob("[sbt]*/*.py")]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
                assert not names & {"resource", "fcntl", "pwd"}, path


def test_no_keras_with_a_known_hole_is_allowed():
    """Model files could run code in spite of safe mode, or read other files."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (lowest,) = [re.search(r">=([\d.]+)", line)[1] for line in lines if line.startswith("keras")]
    assert [int(part) for part in lowest.split(".")] >= [3, 15, 1]
