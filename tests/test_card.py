"""Reproduction cards of synthetic runs against hand-written expectations; hostile records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lic_train.errors import DataError
from lic_train.report import card
from lic_train.report.elements import Section, Table
from lic_train.report.markdown import escape, markdown
from lic_train.report.papers import facts
from lic_train.report.runs import read_runs
from tests import made_up_runs, report_tree

ENVIRONMENT = {
    "started": "2026-01-02T03:04:05+00:00",
    "code": {"version": "0.1.0", "commit": "0123456789abcdef0123", "dirty": True},
    "python": "3.12.1",
    "torch": {"version": "2.15.0"},
    "cpu": {"model": "A processor"},
    "gpus": [{"name": "A card"}, {"name": "A card"}],
}


def write_cwam(outputs: Path, lmbda: float = 0.0175, **options) -> Path:
    """Write a run of 1,500 steps of batch 8, where the paper has 1.5 M."""
    run = made_up_runs.write(outputs, "cwam", lmbda, 0.5, 34.0, **{"steps": 1500, "config": {"N": 320}, **options})
    config = yaml.safe_load((run / ".hydra/config.yaml").read_text())
    config["model"]["_target_"] = "lic_train.models.cwam.CWAM"
    report_tree.put(run / ".hydra/config.yaml", yaml.safe_dump(config))
    report_tree.put(
        run / ".hydra/overrides.yaml", yaml.safe_dump(["model=cwam", f"lambda={lmbda}", "data.root=my set"])
    )
    report_tree.put(run / "environment.json", json.dumps(ENVIRONMENT))
    return run


def tables(section: Section) -> dict[str, Table]:
    return {element.title: element for element in section.elements if isinstance(element, Table)}


def only(outputs: Path) -> dict[str, Table]:
    (section,) = card.sections(read_runs(outputs)[0])
    return tables(section)


def test_training_and_its_share_of_the_papers(tmp_path):
    write_cwam(tmp_path)
    trained = only(tmp_path)["What was trained"]
    row = dict(zip(trained.columns, trained.rows[0], strict=True))
    assert row == {
        "λ": 0.0175, "distortion": "mse", "recipe": "cwam", "data": "imagenet", "steps": 1500, "batch": "8",
        "crops seen": 12_000, "share of the paper's": "0.1 %",
    }  # fmt: skip
    assert "Paper: 1,500,000 steps of batch 8 on about 20 k Flickr" in trained.note


def test_share_refers_to_the_recipe(tmp_path):
    made_up_runs.write(tmp_path, "gcab_gmm", 0.0315, steps=5_000, batch_size=4, recipe="gcab_gmm_finetune")
    made_up_runs.write(tmp_path, "gcab_gmm", 0.12598, steps=5_000, batch_size=4)
    shares = [tables(found)["What was trained"].rows[0][-1] for found in card.sections(read_runs(tmp_path)[0])]
    assert sorted(shares) == ["0.2 %", "1 %"]


def test_points_against_the_papers_at_equal_lambda(tmp_path):
    write_cwam(tmp_path)
    points = only(tmp_path)["kodak: against the paper's points"]
    row = next(row for row in points.rows if row[0] == 0.0175)
    assert row[:7] == pytest.approx([0.0175, 0.4886, 0.5, 0.0114, 34.257, 34.0, -0.257], abs=1e-9)
    assert "authors' result files beside their code" in points.note


def test_results_on_other_pictures_are_not_compared(tmp_path):
    write_cwam(tmp_path, names=("kodim01", "kodim02"))
    points = only(tmp_path)["kodak: points"]
    assert points.rows[0][:2] == [0.0175, 2]
    assert "the paper has 24" in points.note


def test_deviations_of_run_and_recipe(tmp_path):
    write_cwam(tmp_path, batch_size=4, config={"N": 64})
    deviations = [list(row) for row in only(tmp_path)["Deviations from the paper"].rows]
    assert ["crops seen", "12,000,000", "6,000", "chosen for this run"] in deviations
    assert ["batch_size", "8", "4", "chosen for this run"] in deviations
    assert ["network", "", "N 64 instead of 320", "chosen for this run"] in deviations
    assert next(row[1] for row in deviations if row[0] == "first lambda") == "0.0045 or 0.00475"
    assert all(len(row) == 4 for row in deviations)


def test_deviations_of_the_common_recipe_and_the_command(tmp_path):
    run = write_cwam(tmp_path, recipe="common")
    config = yaml.safe_load((run / ".hydra/config.yaml").read_text())
    report_tree.put(run / ".hydra/config.yaml", yaml.safe_dump({**config, "lr_scale": 10}))
    report_tree.put(run / ".hydra/overrides.yaml", yaml.safe_dump(["model=cwam", "model.N=320", "model.depth=3"]))
    deviations = [list(row) for row in only(tmp_path)["Deviations from the paper"].rows]
    assert [
        "recipe",
        "its own",
        "common: the same for all models, for a fair comparison",
        "chosen for this run",
    ] in deviations
    assert ["learning rate", "", "10 times the recipe's", "chosen for this run"] in deviations
    assert [row[2] for row in deviations if row[0] == "network"] == ["depth 3, set by the command"]
    assert "first lambda" not in [row[0] for row in deviations]


@pytest.mark.parametrize(
    "model", ["cwam", "dcae", "gaacnn", "gcab_gmm", "iblic", "invcompress", "qres_vae", "tcm", "tinylic"]
)
def test_readings_from_the_docstring_of_the_module(model):
    readings = card.readings(Path(card.models.__file__).parent / f"{model}.py")
    assert len(readings) >= 2
    assert all("\n" not in reading and "Legend" not in reading for reading in readings)


def test_command_and_environment(tmp_path):
    write_cwam(tmp_path)
    found = only(tmp_path)
    environment = found["Environment"].rows[0]
    assert environment[1:] == [
        "0123456789ab", "yes, see dirty.diff", "3.12.1", "2.15.0", "A card, A card", "2026-01-02T03:04:05+00:00",
    ]  # fmt: skip
    commands = found["Commands that repeat it, at the commit above"].rows
    assert commands == [["python train.py model=cwam lambda=0.0175 'data.root=my set'"]]


def test_one_card_over_all_lambdas(tmp_path):
    for lmbda in (0.0045, 0.0175, 0.09):
        write_cwam(tmp_path, lmbda)
    (section,) = card.sections(read_runs(tmp_path)[0])
    assert section.title == "Reproduction card: cwam, λ 0.0045, 0.0175, 0.09"
    assert [row[0] for row in tables(section)["What was trained"].rows] == [0.0045, 0.0175, 0.09]


def test_card_without_a_paper(tmp_path):
    assert facts.of_model("elic2022") is None
    made_up_runs.write(tmp_path, "elic2022", 0.0067, set="holiday")
    found = only(tmp_path)
    assert "share of the paper's" not in found["What was trained"].columns
    assert found["holiday: points"].columns == ["λ", "pictures", "bpp of the files", "PSNR [dB]", "MS-SSIM [dB]"]
    assert "Deviations from the paper" not in found


def test_card_is_written_to_the_run_directory(tmp_path, capsys):
    run = write_cwam(tmp_path)
    assert card.main([str(tmp_path)]) == 0
    text = (run / "card.md").read_text(encoding="utf-8")
    assert text.startswith("# Reproduction card: cwam, λ 0.0175\n\nP. Mudgal, F. Liu,")
    assert "| 0.0175  | 0.4886     | 0.5000    | 0.0114 " in text
    assert "\n    python train.py model=cwam lambda=0.0175 'data.root=my set'\n" in text
    assert str(run / "card.md") in capsys.readouterr().out.replace("\n", "")


def test_no_card_without_a_finished_run(tmp_path, capsys):
    run = write_cwam(tmp_path)
    (run / "finished.json").unlink()
    with pytest.raises(DataError, match=r"(?s)No card is written for .*expected: a finished run\ngot: unfinished"):
        card.write(run)
    assert card.main([str(tmp_path)]) == 2
    assert not (run / "card.md").exists()


HOSTILE_RECORDS = [
    {},
    {"code": 5, "torch": [], "gpus": {"name": 1}, "cpu": None, "started": {"a": "<b>"}},
    {
        "code": {"commit": ["x"], "dirty": "no"},
        "gpus": [5, {"name": "<script>alert(1)</script>"}],
        "python": "a|b\n# c",
    },
]


@pytest.mark.parametrize("record", HOSTILE_RECORDS)
@pytest.mark.parametrize("overrides", [[], ["a=`b`\n# c", 5, None, {"x": 1}], {"x": 1}, "text"])
def test_hostile_records_are_harmless(tmp_path, record, overrides):
    run = write_cwam(tmp_path, name=report_tree.HOSTILE, folder="lambda_x", batch_size={"a": "|"})
    report_tree.put(run / "environment.json", json.dumps(record))
    report_tree.put(run / ".hydra/overrides.yaml", yaml.safe_dump(overrides))
    lines = card.write(run).read_text(encoding="utf-8").splitlines()
    assert not any(line.startswith("# c") for line in lines)
    assert not any("<script" in line for line in lines if not line.startswith("    "))


def test_hostile_class_name_reads_no_file(tmp_path):
    run = write_cwam(tmp_path)
    config = yaml.safe_load((run / ".hydra/config.yaml").read_text())
    secret = report_tree.put(tmp_path / "secret.py", '"""Title\n\n- a secret\n"""').with_suffix("")
    assert card.readings(secret.with_suffix(".py")) == ["a secret"]
    for target in (f"{secret}.Class", "../../conftest.x", "a", None, 5, "lic_train.models...x"):
        config["model"]["_target_"] = target
        report_tree.put(run / ".hydra/config.yaml", yaml.safe_dump(config))
        assert not any(title.startswith("The network") for title in only(tmp_path))


def test_markdown_cells_are_escaped():
    table = Table(
        "k", "a | b", ["x", "y"], [["p|q", "<i>\n# r"], [None, 1234], [0.5, "`c` *d* [e](f)"]], [2, None], "note"
    )
    assert markdown(Section("T", [table])).splitlines() == [
        "# T",
        "",
        r"## a \| b",
        "",
        "| x    | y                    |",
        "| ---- | -------------------- |",
        r"| p\|q | &lt;i>\\n# r         |",
        "|      | 1,234                |",
        r"| 0.50 | \`c\` \*d\* \[e\](f) |",
        "",
        "note",
    ]
    assert escape("a&b<c") == "a&amp;b&lt;c"
