"""Run the notebook tour.ipynb from top to bottom, and write it back with its outputs.

It needs two packages more than requirements.txt has: `pip install nbclient ipykernel`.
Then `python docs/run_tour.py`, which takes some minutes.
"""

import base64
import io
from pathlib import Path

import nbclient
import nbformat
from PIL import Image

PATH = Path(__file__).with_name("tour.ipynb")


def shrink(output):
    """Keep at most 128 colours of a picture, which makes the file half as large."""
    data = output.get("data", {})
    if "image/png" in data:
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
        small = io.BytesIO()
        picture.convert("RGB").quantize(128).save(small, "PNG", optimize=True)
        data["image/png"] = base64.b64encode(small.getvalue()).decode()


if __name__ == "__main__":
    notebook = nbformat.read(PATH, as_version=4)
    where = {"metadata": {"path": str(PATH.parent)}}
    client = nbclient.NotebookClient(notebook, resources=where, record_timing=False)
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":  # without what backends say as they start
            outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
            for output in outputs:
                shrink(output)
            cell.outputs = outputs
    notebook.metadata.language_info = {"name": "python"}  # not which version
    nbformat.write(notebook, PATH)
    print(f"{PATH.name}: {PATH.stat().st_size / 1e6:.2f} MB")
