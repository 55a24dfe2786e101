"""The notebook docs/tour.ipynb: its code and its answers run; its outputs are there."""

from support import backends, data

import nice
from examples import plane

import json
import re
import sys
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import pytest

PATH = Path(__file__).parent.parent / "docs" / "tour.ipynb"
CELLS = json.loads(PATH.read_text("utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
TEXT = [cell for cell in CELLS if cell["cell_type"] == "markdown"]


def source(cell):
    return "".join(cell["source"])


def pictures(cell):
    """How many pictures a cell's outputs have."""
    return sum("image/png" in output.get("data", {}) for output in cell["outputs"])


def words(text):
    """The words of what is printed, without its numbers."""
    return re.findall("[a-z]+", text.lower())


def test_size():
    assert len(CELLS) <= 25
    assert PATH.stat().st_size < 1e6


def test_outputs():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    for cell in CODE:
        assert cell["outputs"]
        for output in cell["outputs"]:
            assert output["output_type"] in ("stream", "display_data")  # no error
            assert output.get("name") != "stderr"
            shown = {**output, "data": output.get("data", {}).get("text/plain")}
            assert not re.search("/(work|tmp|root|home)", json.dumps(shown))


@pytest.fixture
def small(monkeypatch, digits, tmp_path):
    """Run what follows on less, and without a screen. These are all substitutions.

    Gives a list, which gets an entry for each picture that is shown.
    """
    shown = []
    load = data.load
    half_circles = plane.half_circles
    network = {"hidden_layers": 1, "hidden_units": 32}

    def show():
        shown.append(plt.gcf())
        plt.close("all")

    # MNIST has 600 + 200 of its images, the plane a tenth of its points, the recipe a
    # tiny network. A step of training is compiled only on JAX: elsewhere, to compile
    # takes longer here than to train.
    monkeypatch.setattr(data, "load", lambda path=digits: load(path))
    monkeypatch.setattr(
        plane, "half_circles", lambda count, seed: half_circles(count // 10, seed)
    )
    monkeypatch.setitem(nice.RECIPES, "quick", nice.Recipe(model=network))
    compiled = keras.backend.backend() == "jax"
    monkeypatch.setattr(backends, "use_xla", lambda: compiled)
    # Pictures are on no screen, and files are written to a folder of this test.
    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "show", show)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    return shown


def test_the_code_and_the_answers_run(small, capsys):
    """Each cell prints the words and shows the pictures that its outputs have."""
    names = {}
    for number, cell in enumerate(CODE, 1):
        small.clear()
        exec(compile(source(cell), f"code cell {number} of {PATH.name}", "exec"), names)
        assert len(small) == pictures(cell), source(cell)
        streams = [output for output in cell["outputs"] if "text" in output]
        printed = "".join("".join(output["text"]) for output in streams)
        assert words(capsys.readouterr().out) == words(printed), source(cell)

    answers = re.findall("```python\n(.*?)```", "\n".join(map(source, TEXT)), re.DOTALL)
    assert len(answers) == 6
    names["train_images"] = names["x_train"]  # those of the reader, in the last answer
    names["test_images"] = names["x_test"]
    for number, answer in enumerate(answers, 1):
        small.clear()
        exec(compile(answer, f"answer {number} of {PATH.name}", "exec"), names)
        assert small  # each answer draws something
