"""The notebook docs/tour.ipynb: its code fits the modules, its outputs are there."""

import nice  # isort: skip  (first: it sets up the backends)
from support import data, pictures

import layers
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
MODULES = {"layers": layers, "nice": nice, "sample": sample, "plane": plane}
MODULES |= {"data": data, "pictures": pictures}


def test_size():
    assert len(CELLS) <= 25
    assert PATH.stat().st_size < 1e6


def test_outputs():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert all(cell["outputs"] for cell in CODE[1:])
    for output in [output for cell in CODE for output in cell["outputs"]]:
        output.get("data", {}).pop("image/png", None)
        assert output["output_type"] != "error" and output.get("name") != "stderr"
        assert not re.search("/(work|tmp|root|home)", json.dumps(output))


def test_names_and_arguments():
    """What the code and the answers use of the modules exists and takes this."""
    blocks = ["".join(cell["source"]) for cell in CODE]
    text = ["".join(cell["source"]) for cell in CELLS if cell not in CODE]
    answers = re.findall("```python\n(.*?)```", "\n".join(text), re.DOTALL)
    assert len(answers) == 2
    for node in [
        node for block in blocks + answers for node in ast.walk(ast.parse(block))
    ]:
        function = node.func if isinstance(node, ast.Call) else node
        if (
            isinstance(function, ast.Attribute)
            and getattr(function.value, "id", 0) in MODULES
        ):
            used = getattr(MODULES[function.value.id], function.attr)
            if function is not node:
                names = {
                    argument.arg: None for argument in node.keywords if argument.arg
                }
                inspect.signature(used).bind(*node.args, **names)
