"""The notebook runs from top to bottom, and shows what it computed."""

import json
import pathlib
import re

import notebooks
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATH = ROOT / "docs" / "alexnet.ipynb"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where trained networks of the package are unpacked."""
    pytest.importorskip("elpv_dataset")
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_all_cells_run_with_few_images_and_without_training(cache):
    variables = notebooks.run(notebooks.read(PATH), [("IMAGES, EPOCHS = 2624, 12", "IMAGES, EPOCHS = 48, 0")])
    assert variables["images"].shape == (48, 64, 64, 3)
    assert variables["alexnet"].count_params() == 60_965_224
    assert variables["curves"] == {"relu": [], "tanh": []}
    assert variables["grid"].shape == variables["found"].grids.shape


@pytest.mark.slow
def test_training_cells_show_that_relus_learn_faster_at_first(cache):
    variables = notebooks.run(notebooks.read(PATH))
    relu, tanh = (np.array(variables["curves"][name]) for name in ("relu", "tanh"))
    assert len(relu) == len(tanh) == 12
    assert relu[:2].mean() < tanh[:2].mean() and max(relu[-1], tanh[-1]) < 0.22
    assert variables["wrong"] < variables["majority"]


def test_the_stored_outputs_are_of_one_run_from_top_to_bottom():
    notebook = notebooks.read(PATH)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) == 10 and [cell["execution_count"] for cell in code] == list(range(1, 11))
    kinds = [{output["output_type"] for output in cell["outputs"]} for cell in code]
    assert all(kinds) and not any("error" in each for each in kinds)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    # It is shown by GitHub, and kept in every checkout.
    assert PATH.stat().st_size < 500_000
    assert not re.search(r"/home/|/work/|/tmp/|/root/", json.dumps(notebook))


def test_links_in_the_notebook_exist():
    text = "".join("".join(cell["source"]) for cell in notebooks.read(PATH)["cells"] if cell["cell_type"] == "markdown")
    links = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not target.startswith("https://")]
    assert links and all((PATH.parent / target).exists() for target in links)
