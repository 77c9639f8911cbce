"""Planning of sweeps: the papers' tables, one directory per run, and errors before the first run is started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from lic_train.config.command_line import prepare
from lic_train.config.compose import compose
from lic_train.config.run import checked
from lic_train.errors import ConfigError, DataError
from lic_train.launch.plan import Job, plan
from lic_train.launch.table import warm_start_cost
from lic_train.models.base import build
from lic_train.runs.claim import claim
from tests.test_config import options

FULL = ["data=folder", "data.root=somewhere"]  # full length of the recipes, which data=demo shortens


@pytest.fixture(autouse=True)
def _no_earlier_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def jobs_of(*typed: str) -> list[Job]:
    """Return the runs of jobs that are written as on the command line."""
    return plan([job.split() for job in typed]).jobs


def lambdas(jobs: Sequence[Job]) -> list[float]:
    return [job.config.lmbda for job in jobs]


def error_message(*typed: str) -> str:
    with pytest.raises(ConfigError) as caught:
        jobs_of(*typed)
    return str(caught.value)


# --- grids and ladders -----------------------------------------------------------------------------------------------


def test_each_model_has_its_own_lambdas():
    planned = plan([["model=cwam", "sweep=rd_curve"], ["model=iblic", "sweep=rd_curve"]])
    assert planned.name == "rd_curve-cwam-iblic"
    assert lambdas(planned.jobs[:6]) == [0.0045, 0.00975, 0.0175, 0.0483, 0.09, 0.14]
    assert lambdas(planned.jobs[6:]) == [0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483]
    assert [job.config.model_name for job in planned.jobs] == ["cwam"] * 6 + ["iblic"] * 6
    assert len({job.directory for job in planned.jobs}) == 12
    assert {job.config.group for job in planned.jobs} == {"rd_curve-cwam-iblic"}


def test_lambdas_depend_on_the_distortion():
    assert lambdas(jobs_of("model=cwam sweep=rd_curve distortion=ms_ssim crop=192")) == [8.73, 16.64, 31.73, 60.5]


def test_overrides_of_job_are_those_of_the_single_run():
    (job,) = jobs_of("model=cwam lambda=0.0067 launcher=slurm launcher.hours=3 group=mine")
    assert job.overrides == ["model=cwam", "lambda=0.0067", "group=mine"]
    assert prepare(job.overrides) == job.overrides
    assert checked(compose(job.overrides)) == job.config
    assert job.directory == Path("outputs/cwam/cwam/lambda_0.0067")


def test_run_directory_is_independent_of_the_notation_of_lambda():
    directories = {jobs_of(f"model=cwam lambda={text}")[0].directory for text in ("220", "220.0", "220.00", "2.2e2")}
    assert directories == {Path("outputs/cwam/cwam/lambda_220")}


def test_learning_rate_scale():
    config = jobs_of("model=cwam lr_scale=0.5")[0].config
    assert [stage.lr for stage in config.make_recipe().stages] == [5e-5, 5e-6, 5e-7]


def test_name_of_search_trial_contains_rounded_values():
    (job,) = jobs_of("model=cwam sweep=search lr_scale=6.074996073425697 batch_size=4 recipe.optimizer.clip_norm=0.1")
    assert job.directory.name == "lambda_0.0067_lr_6.075_batch_4_clip_0.1"


# --- errors before the first run is started --------------------------------------------------------------------------


def test_shared_directory_raises_with_a_working_suggestion():
    message = error_message("model=cwam lr_scale=1", "model=cwam lr_scale=2")
    assert "outputs/cwam/cwam/lambda_0.0067" in message
    assert "lr_scale=1" in message
    assert "lr_scale=2" in message
    assert "'name=lr_scale_${lr_scale}'" in message
    named = jobs_of(*(f"model=cwam lr_scale={scale} name=lr_scale_${{lr_scale}}" for scale in (1, 2)))
    assert [job.directory.name for job in named] == ["lambda_0.0067_lr_scale_1", "lambda_0.0067_lr_scale_2"]
    assert "omit one of the two" in error_message("model=cwam lambda=0.013", "model=cwam lambda=0.0130")


def test_all_invalid_runs_are_listed_and_none_is_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    invalid = ("model=cwam lambda=-1", "model=iblic crop=100", "model=cwam model.x=1")
    message = error_message("model=cwam lambda=0.0067", *invalid)
    assert "3 runs of the sweep cannot be started" in message
    for part in ("cwam lambda=-1", "above 0, got -1", "iblic crop=100", "64 or 128", "cwam model.x=1", "'model.x'"):
        assert part in message
    assert "lambda=0.0067 " not in message
    assert list(tmp_path.iterdir()) == []


def test_missing_evaluation_folder_raises_unless_all_its_runs_are_finished(tmp_path):
    on_kodak = ["model=cwam lambda=0.0067 steps=3 eval=kodak", "model=cwam lambda=0.0130 steps=3 eval=kodak"]
    with pytest.raises(DataError, match=r"evaluation set kodak does not exist(.|\n)*eval\.root"):
        jobs_of("model=iblic", *on_kodak)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"No image below(.|\n)*correct eval\.root"):
        jobs_of(f"model=cwam eval=folder eval.root={tmp_path / 'empty'}")
    assert not (tmp_path / "outputs").exists()
    for lmbda in ("0.0067", "0.013"):
        directory = tmp_path / "outputs/cwam/cwam" / f"lambda_{lmbda}"
        directory.mkdir(parents=True)
        (directory / "finished.json").write_text('{"step": 3, "results": {"equal": true}}')
        if lmbda == "0.0067":
            with pytest.raises(DataError, match="evaluation set kodak"):
                jobs_of(*on_kodak)
    assert len(jobs_of("model=iblic", *on_kodak)) == 3
    with pytest.raises(DataError, match="evaluation set kodak"):
        jobs_of(f"{on_kodak[0]} fresh=true", on_kodak[1])


def test_directory_with_another_configuration_raises_unless_fresh(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (job,) = jobs_of("model=cwam lambda=0.0067 seed=5")
    claim(job.directory, job.config.plain(), False).release()
    message = error_message("model=cwam lambda=0.0067", "model=cwam lambda=0.0130")
    assert "1 run of the sweep" in message
    assert "seed: 5 -> 0" in message
    fresh = jobs_of("model=cwam lambda=0.0067 fresh=true", "model=cwam lambda=0.0130")
    assert [job.fresh for job in fresh] == [True, False]
    assert not any("fresh" in text for job in fresh for text in job.overrides)


def test_override_of_a_key_of_the_sweep_raises():
    message = error_message("model=cwam sweep=rd_curve lambda=0.1")
    assert "lambda=0.1" in message
    assert "'sweep.grid.lambda=[...]'" in message
    assert lambdas(jobs_of("model=cwam sweep=rd_curve sweep.grid.lambda=[0.1,0.2]")) == [0.1, 0.2]
    assert "name=mine" in error_message("sweep=gcab_components name=mine")


def test_sweep_and_launcher_require_multirun():
    for argument in ("sweep=rd_curve", "launcher=slurm", "launcher.hours=3"):
        with pytest.raises(ConfigError, match=r"to do: lic train -m model=cwam "):
            prepare(["model=cwam", argument])
        assert prepare(["-m", "model=cwam", *(["launcher=slurm"] if "." in argument else []), argument])


def test_key_missing_in_one_swept_model_raises_with_its_name():
    with pytest.raises(ConfigError, match=r"'model.patch' under model=cwam"):
        prepare(["-m", "model=iblic,cwam", "model.patch=2"])


def test_key_missing_in_default_model_is_valid_for_swept_models():
    given = ["-m", "model=iblic,iblic_tiny", "model.patch=4", "lambda=0.0067", "launcher=ray", "launcher.cpus=2"]
    assert prepare(given) == [*given[:2], "model.patch=choice(4)", *given[3:]]
    assert prepare(["-m", "model=iblic", "model.patch=4"]) == ["-m", "model=iblic", "model.patch=4"]


# --- warm start ------------------------------------------------------------------------------------------------------


def test_warm_start_cost_of_gcab_matches_the_paper():
    jobs = jobs_of(f"model=gcab_gmm sweep=warm_start {' '.join(FULL)}")
    cost = warm_start_cost(jobs)
    assert cost is not None
    assert (cost.steps, cost.independent_steps) == (2_500_000 + 7 * 500_000, 8 * 2_500_000)
    assert cost.describe("GPU-h") == "6,000,000 steps instead of 20,000,000 (0.30)"


def test_children_start_from_the_highest_rate_with_the_finetuning_recipe():
    parent, *children = jobs_of(f"model=gcab_gmm sweep=warm_start {' '.join(FULL)}")
    assert parent.parent is None
    assert parent.config.lmbda == 0.12598
    assert str(parent.directory) == "outputs/gcab_gmm/gcab_gmm/lambda_0.12598"
    assert len(children) == 7
    for child in children:
        assert child.parent is parent
        assert child.config.init_from == str(parent.directory)
        assert child.directory.parent == Path("outputs/gcab_gmm/gcab_gmm_finetune")
        assert [stage.lr for stage in child.config.make_recipe().stages] == [1e-5]


def test_parent_and_overrides_of_children_are_configurable():
    overrides = 'sweep.warm_start.parent=0.0175 sweep.warm_start.overrides=["steps=300000"]'
    parent, *children = jobs_of(f"model=cwam sweep=warm_start {overrides} {' '.join(FULL)}")
    assert (parent.config.lmbda, parent.config.steps) == (0.0175, 1_500_000)
    assert {child.config.steps for child in children} == {300_000}
    assert lambdas(children) == [0.0045, 0.00975, 0.0483, 0.09, 0.14]
    assert "warm_start.parent" in error_message("model=gcab_gmm sweep=warm_start sweep.warm_start.parent=0.5")


def test_missing_finetuning_recipe_raises():
    message = error_message("model=cwam sweep=warm_start")
    assert "conf/recipe/cwam_finetune.yaml" in message
    assert "sweep.warm_start.overrides" in message


# --- the papers' tables ----------------------------------------------------------------------------------------------

OFF = {"fexm": False, "frm": False, "crm": False, "fenm": False, "qecm": "off"}
ON = {"fexm": True, "frm": True, "crm": True, "fenm": True, "qecm": "learned"}
TABLE_V = [0.0035, 0.0067, 0.0130, 0.0483]

# Sweep: lambdas, and for each row its name, the changed model arguments, and the parameter count of the specification.
TABLES: dict[str, tuple[list[float], list[tuple[str, dict[str, object], int]]]] = {
    "iblic_ablation": (
        TABLE_V,
        [
            ("baseline", OFF, 28_338_211),
            ("fexm_frm", {**ON, "fenm": False, "qecm": "off"}, 31_752_790),
            ("fenm_without_loss", {**ON, "qecm": "off"}, 31_833_158),
            ("fenm", {**ON, "qecm": "off"}, 31_833_158),
            ("qecm", ON, 32_391_238),
        ],
    ),
    "iblic_patch": (
        TABLE_V,
        [
            ("patch_1", {"patch": 1}, 32_157_574),
            ("patch_2", {"patch": 2}, 32_391_238),
            ("patch_4", {"patch": 4}, 33_324_358),
            ("patch_8", {"patch": 8}, 37_053_766),
        ],
    ),
    "gcab_components": (
        [0.0315],
        [
            ("K1", {"K": 1}, 5_465_038),
            ("K2", {"K": 2}, 5_649_934),
            ("K3", {"K": 3}, 5_834_830),
            ("K4", {"K": 4}, 6_019_726),
        ],
    ),
    "gcab_modules": (
        [0.0315],
        [
            ("hyperprior", {"mixture": False, "gcab_after": []}, 5_075_843),
            ("gcab", {"mixture": False, "gcab_after": [1, 2, 3]}, 5_075_843 + 3 * 2_329),
            ("mixture", {"mixture": True, "gcab_after": []}, 5_834_830 - 3 * 2_329),
            ("gcab_mixture", {"mixture": True, "gcab_after": [1, 2, 3]}, 5_834_830),
        ],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_sweep_of_a_paper_matches_its_table_and_builds_its_networks(name):
    lmbdas, rows = TABLES[name]
    jobs = jobs_of(f"sweep={name} {' '.join(FULL)}")
    assert len(jobs) == len(rows) * len(lmbdas)
    for place, job in enumerate(jobs):
        label, changed, _ = rows[place // len(lmbdas)]
        assert job.config.lmbda == lmbdas[place % len(lmbdas)]
        assert job.directory.name == f"lambda_{job.config.lmbda:g}_{label}"
        assert {key: job.config.model[key] for key in changed} == changed

    with torch.device("meta" if name.startswith("iblic") else "cpu"):
        networks = [build(job.config.model) for job in jobs[:: len(lmbdas)]]
    counted = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    assert counted == [parameters for _, _, parameters in rows]


def test_row_without_enhancement_loss_differs_in_the_loss_only():
    without, with_loss = jobs_of(f"sweep=iblic_ablation sweep.grid.lambda=[0.0035] {' '.join(FULL)}")[2:4]
    assert without.config.make_recipe().extra_weights(0) == {"feature_enhancement": 0}
    assert with_loss.config.make_recipe().extra_weights(0) == {"feature_enhancement": 1}
    assert without.config.model == with_loss.config.model


def test_model_of_a_papers_sweep_can_be_replaced():
    jobs = jobs_of("sweep=iblic_ablation model=iblic_tiny sweep.grid.lambda=[0.0035]")
    assert {job.config.model["size"] for job in jobs} == {"tiny"}


def test_rivals_have_equal_lambdas_and_one_protocol():
    planned = plan([["sweep=rivals", "recipe=common", "sweep.grid.lambda=[0.0067]", *FULL]])
    assert planned.name == "rivals"
    assert {"tinylic", "stf", "iblic"} < {job.config.model_name for job in planned.jobs}
    assert len({job.directory for job in planned.jobs}) == len(planned.jobs) == 13
    first, *others = [job.config.make_recipe().stages for job in planned.jobs]
    assert all(stages == first for stages in others)


def test_rivals_can_be_any_models_with_their_own_recipes():
    jobs = jobs_of("sweep=rivals sweep.grid.model=[stf,wacnn] sweep.grid.lambda=[0.0067]")
    assert [job.directory.parts[-3:] for job in jobs] == [
        ("stf", "stf", "lambda_0.0067"),
        ("wacnn", "wacnn", "lambda_0.0067"),
    ]
    assert "'sweep.grid.model=[...]'" in error_message("sweep=rivals model=stf")


def test_every_shipped_sweep_is_tested():
    others = {"rd_curve", "warm_start", "search", "rivals", "variable_against_fixed"}
    assert set(options("sweep")) == {*TABLES, *others}


def test_children_have_the_widths_of_their_parent(capsys):
    """The published widths of mbt2018_mean are 128 and 192 up to q4, 192 and 320 above."""
    options = "sweep.grid.lambda=[0.0035,0.0250] sweep.warm_start.overrides=['steps=300000']"
    parent, child = jobs_of(f"model=mbt2018_mean sweep=warm_start {options} {' '.join(FULL)}")
    assert (parent.config.lmbda, parent.config.model["N"], parent.config.model["M"]) == (0.025, 192, 320)
    assert (child.config.lmbda, child.config.model["N"], child.config.model["M"]) == (0.0035, 192, 320)
    assert {"model.N=192", "model.M=320"} <= set(child.overrides)
    assert "have its widths, model.N=192 model.M=320, for lambda 0.0035" in capsys.readouterr().out


def test_child_with_another_network_raises_before_the_parent_starts():
    options = "sweep.grid.lambda=[0.0035,0.0250] sweep.warm_start.overrides=['steps=300000','model.N=64']"
    message = error_message(f"model=mbt2018_mean sweep=warm_start {options} {' '.join(FULL)}")
    assert "omit model.N=64" in message
    assert "g_a.0.weight: (192, 3, 5, 5) -> (64, 3, 5, 5)" in message


def test_start_from_a_missing_run_raises_before_the_first_starts():
    message = error_message("model=mbt2018_mean lambda=0.0067", "model=cwam init_from=/no/such/run")
    assert "1 run of the sweep" in message
    assert "/no/such/run does not exist" in message
