"""The notebook: it runs from its first cell to its last, and says what its file says."""

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow
NOTEBOOK = ROOT / "docs" / "examples" / "first_steps.ipynb"


def said(notebook) -> list[str]:
    """What each code cell shows as text; pictures by their size alone, a progress bar not at all."""
    shown = []
    for cell in notebook.cells:
        outputs = [out for out in cell.get("outputs", []) if out.get("name") != "stderr"]
        shown.append("".join(out["text"] if "text" in out else out["data"]["text/plain"] for out in outputs))
    return shown


def test_every_cell_runs_and_says_what_the_file_says(monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    stored, notebook = (nbformat.read(NOTEBOOK, as_version=4) for _ in range(2))
    nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": NOTEBOOK.parent}}
    ).execute()
    assert said(notebook) == said(stored)
    assert len(stored.cells) == 20
    assert sum("image/png" in out.get("data", {}) for cell in stored.cells for out in cell.get("outputs", [])) >= 3
