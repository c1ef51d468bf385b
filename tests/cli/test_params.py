import shutil
from pathlib import Path

import pytest

from lora_tta.cli.main import main
from lora_tta.config import load_params


def test_params_sets_values_and_keeps_every_other_line_and_the_comments(workspace):
    before = (workspace / "params.yaml").read_text().splitlines()
    assert main(["params", "search.n_trials=9", "search.space.rank=[2, 4]", "search.storage=null"]) == 0
    params = load_params(workspace / "params.yaml")
    assert (params.search.n_trials, params.search.space["rank"]) == (9, [2, 4])
    after = (workspace / "params.yaml").read_text().splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert [new.partition("#")[0].strip() for _, new in changed] == ["n_trials: 9", "rank: [2, 4]"]
    assert [new.partition("#")[2] for _, new in changed] == [old.partition("#")[2] for old, _ in changed]
    assert "# trials in all" in changed[0][1]


@pytest.mark.parametrize(
    "assignment",
    [
        "search.n_trials=none",
        "search.trials=3",
        "n_trials=3",
        "search.n_trials",
        "search=1",
        "search.space=1",
        "search.space.rank.low=1",
        "search.n_trials=[1",
    ],
)
def test_params_refuses_a_wrong_assignment_in_one_line_and_leaves_the_file(workspace, capsys, assignment):
    before = (workspace / "params.yaml").read_text()
    assert main(["params", assignment]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert (workspace / "params.yaml").read_text() == before


@pytest.mark.parametrize("root", ["it's a & b", "[1, 2", "a: b # c", "null", "007", "ä=ö", '"quoted"'])
def test_a_data_root_is_taken_as_it_is_written(workspace, root):
    assert main(["params", "--data-root", root]) == 0
    assert load_params(workspace / "params.yaml").data.root == Path(root)


@pytest.mark.parametrize("root", ["it's a & b", "a=b"])
def test_a_data_root_can_be_assigned_like_any_other_setting(workspace, root):
    assert main(["params", f"data.root={root}"]) == 0
    assert load_params(workspace / "params.yaml").data.root == Path(root)


@pytest.mark.parametrize("value", [".inf", ".nan", "-.inf"])
@pytest.mark.parametrize(
    "key",
    [
        "adaptation.learning_rate",
        "adaptation.weight_decay",
        "adaptation.max_grad_norm",
        "adaptation.method.alpha_over_rank",
        "workers.heartbeat_seconds",
        "cache.max_gigabytes",
    ],
)
def test_a_setting_that_is_not_finite_is_refused_in_one_line_that_names_it(workspace, capsys, key, value):
    assert main(["params", f"{key}={value}"]) == 2
    message = capsys.readouterr().err
    section, _, name = key.partition(".")
    assert section in message
    assert name.rpartition(".")[2] in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("key", ["generation.guidance_scale", "generation.image_guidance_scale"])
def test_a_guidance_scale_that_is_not_finite_is_refused(workspace, capsys, key):
    for value in (".inf", ".nan"):
        assert main(["params", f"{key}={value}"]) == 2
        assert key in capsys.readouterr().err


def test_the_presets_lead_to_the_full_model_and_back(workspace, tiny_model):
    before = load_params(workspace / "params.yaml")
    for name in ("embedded", "opensora-v2"):
        shutil.copytree(tiny_model, workspace / "models" / name)
    assert main(["params", "--preset", "opensora-v2"]) == 0
    full = load_params(workspace / "params.yaml")
    assert (full.preprocess.height, full.preprocess.width, full.model.dtype) == (192, 336, "bfloat16")
    assert (full.generation.guidance_scale, full.generation.image_guidance_scale) == (7.5, 3.0)
    assert (full.adaptation.condition, full.adaptation.stopping) == ("all", None)
    assert full.search.space["num_steps"] == [20, 50, 100]
    assert main(["params", "--preset", "recommended-search"]) == 0
    recommended = load_params(workspace / "params.yaml")
    assert recommended.model == full.model
    assert recommended.adaptation.condition == "prefix"
    assert recommended.search.space["method"] == ["lora", "offset"]
    assert main(["params", "--preset", "embedded"]) == 0
    assert load_params(workspace / "params.yaml") == before


def test_missing_weights_name_the_files_their_source_and_the_conversion(workspace, capsys):
    assert main(["params", "--preset", "opensora-v2"]) == 2
    message = capsys.readouterr().err
    for part in ("hpcai-tech/Open-Sora-v2", "Open_Sora_v2.safetensors", "lora-tta convert"):
        assert part in message


LOCK = """schema: '2.0'
stages:
  encode:
    cmd: python -m lora_tta.stages.encode
    deps:
    - path: {model}
      hash: md5
      md5: 040a6ad35bdcd8854b4bba0c885c007b.dir
      size: 13546005
      nfiles: 14
    params:
      params.yaml:
        model.path: models/embedded
    outs:
    - path: outputs/encoded
      hash: md5
      md5: 0be0ac4a8f5ba26c1bf2a1a5ec3e7d0e.dir
"""


def test_the_lock_file_calls_a_folder_by_its_new_name_and_back(workspace):
    before = LOCK.format(model=load_params(workspace / "params.yaml").model.path)
    lock = workspace / "dvc.lock"
    lock.write_text(before)
    assert main(["params", "model.path=models/opensora-v2"]) == 0
    assert lock.read_text() == LOCK.format(model="models/opensora-v2")
    assert main(["params", f"model.path={workspace / 'models' / 'embedded'}"]) == 0
    assert main(["params", "model.path=models/embedded", "search.n_trials=9"]) == 0
    assert lock.read_text() == LOCK.format(model="models/embedded")
