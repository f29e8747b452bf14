"""docs/s4.ipynb runs from top to bottom, and its stored outputs are of a whole run."""

import json

import matplotlib
import matplotlib.pyplot as plt
import pytest

from lra.paths import ROOT

CELLS = json.loads((ROOT / "docs" / "s4.ipynb").read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
TRAINING = next(i for i, code in enumerate(CODE) if "STEPS =" in code)


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(ROOT / "docs")
    names: dict = {}

    def execute(codes):
        for code in codes:
            exec(compile(code, "docs/s4.ipynb", "exec"), names)
        return names

    matplotlib.use("agg")
    with matplotlib.rc_context():
        yield execute
    plt.close("all")


def test_views_agree(run):
    names = run(CODE[:TRAINING])
    assert (names["convolved"] - names["recurrent"]).abs().max() < 1e-12
    assert names["difference"] < 1e-4
    # the state holds the recent past
    history = names["past"][names["age"] < 1]
    signal = names["signal"](-names["age"][names["age"] < 1])
    assert (history - signal).abs().max() < 0.05


@pytest.mark.nightly
def test_training_cells_run(run, tmp_path):
    short = [code.replace("STEPS = 300", "STEPS = 8") for code in CODE[TRAINING:]]
    short[0] = short[0].replace('ROOT / "runs" / "notebook"', f"Path({str(tmp_path)!r})")
    assert short[0].count("STEPS = 8") == short[0].count(str(tmp_path)) == 1
    names = run([CODE[0], *short])
    assert names["record"]["status"] == "ok"
    assert len(names["kernels"]) == 4


def test_outputs_are_of_one_whole_run():
    cells = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
