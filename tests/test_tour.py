"""The notebook docs/tour.ipynb: its code fits the modules, its outputs are there."""

from support import data, pictures

import layers
import nice
import sample
from examples import plane

import ast
import inspect
import json
import re
from pathlib import Path

PATH = Path(__file__).parent.parent / "docs" / "tour.ipynb"
CELLS = json.loads(PATH.read_text("utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
TEXT = [cell for cell in CELLS if cell["cell_type"] == "markdown"]

# What names in the notebook's code stand for.
OWNERS = {
    "data": data,
    "layers": layers,
    "nice": nice,
    "pictures": pictures,
    "plane": plane,
    "sample": sample,
}
MODELS = ("flow", "model")


def test_size():
    assert len(CELLS) <= 25
    assert PATH.stat().st_size < 1e6


def test_outputs():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    for cell in CODE:
        assert cell["outputs"]
        for output in cell["outputs"]:
            output.get("data", {}).pop("image/png", None)
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr"
            assert not re.search("/(work|tmp|root|home)", json.dumps(output))


def test_names_and_arguments():
    """What the code and the answers use of the modules exists and takes this."""
    text = "\n".join("".join(cell["source"]) for cell in TEXT)
    answers = re.findall("```python\n(.*?)```", text, re.DOTALL)
    assert len(answers) == 5
    blocks = ["".join(cell["source"]) for cell in CODE]
    model = nice.build_encoder((2,), couplings=0)
    owners = OWNERS | dict.fromkeys(MODELS, model)
    calls = 0
    for block in blocks + answers:
        for node in ast.walk(ast.parse(block)):
            if is_member(node, owners):
                assert hasattr(owners[node.value.id], node.attr), ast.unparse(node)
            if isinstance(node, ast.Call) and is_member(node.func, owners):
                used = getattr(owners[node.func.value.id], node.func.attr)
                names = [keyword.arg for keyword in node.keywords if keyword.arg]
                inspect.signature(used).bind(*node.args, **dict.fromkeys(names))
                calls += 1
    assert calls > 20


def is_member(node, owners):
    """Whether a node of the syntax tree is such as `nice.train`."""
    if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
        return False
    return node.value.id in owners
