"""Runs a Jupyter notebook without Jupyter: its cells in one namespace, and what they print and draw as outputs.

``python tests/helpers/notebooks.py docs/alexnet.ipynb`` runs a notebook and writes the outputs into it.
"""

import base64
import contextlib
import io
import json
import sys


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def run(notebook, changes=()):
    """Runs the code cells in order.

    Args:
      notebook: as `read` returns it. Its outputs are replaced.
      changes: pairs of texts; the first is replaced by the second in the cell that has it. Each must be in one.

    Returns:
      The variables of the cells.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    variables = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    for old, new in changes:
        assert sum(old in source for source in sources) == 1, old
        sources = [source.replace(old, new) for source in sources]
    for number, (cell, source) in enumerate(zip(cells, sources), start=1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, f"<cell {number}>", "exec"), variables)
        cell["execution_count"], cell["outputs"] = number, []
        if printed.getvalue():
            lines = printed.getvalue().splitlines(keepends=True)
            cell["outputs"].append({"name": "stdout", "output_type": "stream", "text": lines})
        for figure in map(pyplot.figure, pyplot.get_fignums()):
            cell["outputs"].append(_display(figure))
        pyplot.close("all")
    return variables


def _display(figure):
    content = io.BytesIO()
    figure.savefig(content, format="png", bbox_inches="tight")
    data = {"image/png": base64.b64encode(content.getvalue()).decode(), "text/plain": [repr(figure)]}
    return {"data": data, "metadata": {}, "output_type": "display_data"}


def _write(path):
    notebook = read(path)
    run(notebook)
    text = json.dumps(notebook, indent=1, ensure_ascii=False)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n")


if __name__ == "__main__":
    _write(sys.argv[1])
