"""Run the notebook tour.ipynb from top to bottom, and write it back with its outputs.

It needs two packages more than requirements.txt has: `pip install nbclient ipykernel`.
Then `python docs/run_tour.py`, which takes some four minutes. If a cell fails, the
notebook stays as it was.
"""

from pathlib import Path

import nbclient
import nbformat

PATH = Path(__file__).with_name("tour.ipynb")

if __name__ == "__main__":
    notebook = nbformat.read(PATH, as_version=4)
    where = {"metadata": {"path": str(PATH.parent)}}
    client = nbclient.NotebookClient(notebook, resources=where, record_timing=False)
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":  # without what backends say as they start
            kept = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = kept
    notebook.metadata.language_info = {"name": "python"}  # not which version
    nbformat.write(notebook, PATH)
    print(f"{PATH.name}: {PATH.stat().st_size / 1e6:.2f} MB")
