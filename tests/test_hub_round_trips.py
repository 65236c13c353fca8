"""To the Hub and back: one process pushes, a fresh one with an empty cache loads, against the Hub in tests/hub."""

import io
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save

from .drawing import draw_checkpoint
from .fingerprint import agree, fingerprint
from .hub import Blob, HubServer, Write, run_client
from .hub_clients import REPO, SMALL, build
from .test_readme import snippets

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
FIRST_STEP = "Training in progress, step 1"


def commit(hub, name, files):
    """Put files into a repository as somebody else would."""
    key = f"models/{name}"
    repository = hub.repositories.get(key) or hub.create_repository(key)
    large = (".safetensors", ".bin")
    writes = [Write(path, Blob(content, lfs=path.endswith(large))) for path, content in files.items()]
    repository.commit("main", writes, title="Add files")


def commit_model(hub, name, model, folder):
    model.save_pretrained(folder)
    commit(hub, name, {path.name: path.read_bytes() for path in folder.iterdir()})


def pickled(model):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.getvalue()


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory):
    """What the process says that pushes everything; the Hub refuses one upload and one commit."""
    folder = tmp_path_factory.mktemp("pushed")
    for seed in (5, 6):
        commit_model(hub, "user/changed", build(seed), folder / f"changed-{seed}")
    commit(hub, "user/interrupted", {"config.json": b"{}", "model.safetensors": b"former", "notes.txt": b"kept"})
    hub.faults.stale_revision()
    hub.faults.upload_error(status=403, after=1)
    hub.faults.commit_error(status=500)
    return client(hub, f"push_all({str(folder)!r})")


@pytest.fixture(scope="module")
def loaded(hub, pushed, tmp_path_factory):
    """What the process says that loads everything; the connection drops in the middle of its first download."""
    folder = tmp_path_factory.mktemp("loaded")
    commit_model(hub, "user/broken", build(0), folder / "broken")
    hub.faults.drop_download(after_bytes=100_000, times=6)
    model = build(0)
    commit(
        hub, "user/pickle", {"config.json": model.config.to_json_string().encode(), "pytorch_model.bin": pickled(model)}
    )
    timm_model = timm.create_model("gkgnet_s", num_classes=3, **SMALL)
    timm.models.save_for_hf(timm_model, folder / "timm", model_args=SMALL, safe_serialization=False)
    content = {path.name: path.read_bytes() for path in (folder / "timm").iterdir()}
    commit(hub, "user/timm-pickle", content)
    # Safetensors are there, and the configuration names the pickle.
    naming = content["config.json"].replace(b'"pretrained_cfg": {', b'"pretrained_cfg": {"hf_hub_filename": "a.bin",')
    weights = save(timm_model.state_dict())
    commit(hub, "user/timm-both", {"config.json": naming, "model.safetensors": weights, "a.bin": b"a pickle"})
    torch.save(draw_checkpoint("gkgnet_t_224_labels80", seed=1), folder / "gkgnet_coco_576.pth")
    arguments = (str(folder), pushed["models"]["commit"], first_step(hub), snippets("docs/sharing.md", "python", "sh"))
    return client(hub, f"load_all{arguments!r}")


@pytest.fixture(scope="module")
def without_package(hub, pushed):
    """What a process says that loads by the code which the repositories carry."""
    states = [("user/folder", "main"), ("user/trained", first_step(hub)), ("user/trained", "main")]
    code = f"""
        from tests.hidden import hide
        hide()
        from tests.hub_client_without_package import load_by_carried_code
        result = load_by_carried_code({states!r})
    """
    return run_client(code, hub.environment(PYTHONPATH=str(ROOT)))


def client(hub, call):
    name = call.split("(")[0]
    environment = hub.environment(PYTHONPATH=str(ROOT))
    return run_client(f"from tests.hub_clients import {name}\nresult = {call}", environment)


def first_step(hub):
    """The commit of the first push while training."""
    return next(commit.id for commit in history(hub, "user/trained") if commit.title == FIRST_STEP)


def history(hub, name, revision="main"):
    """Commits of a branch, newest first."""
    found = [hub.repositories[f"models/{name}"].find(revision)]
    while found[-1].parent:
        found.append(found[-1].parent)
    return found


def files(hub, name, revision="main"):
    return set(hub.repositories[f"models/{name}"].find(revision).files) - {".gitattributes"}


def test_a_model_comes_back_by_tag_commit_and_branch(pushed, loaded):
    first, second, third = pushed["models"]["fingerprints"]
    assert agree(loaded["models"], [first, first, second, third])  # v1, its commit, main, next


def test_every_class_loads_what_it_is_of(pushed, loaded):
    assert agree(loaded["without classifier"], pushed["models"]["main"]["base"])
    assert agree(loaded["backbones"], [pushed["models"]["main"]["backbone"]] * 2)


def test_a_pipeline_says_the_same_before_and_after(pushed, loaded):
    assert len(pushed["models"]["main"]["pipeline"]) == 5
    assert agree(loaded["pipeline"], pushed["models"]["main"]["pipeline"])


@pytest.mark.parametrize("loader", ["classifier", "base", "backbone", "pipeline", "processor"])
def test_without_the_package_a_pushed_folder_and_every_step_of_a_training_load(pushed, without_package, loader):
    expected = [pushed["folder"]["main"], *pushed["trained"]]
    assert agree([state[loader] for state in without_package["states"]], [state[loader] for state in expected])
    assert len({state["classifier"]["weights"] for state in expected}) == 3


def test_without_the_package_its_own_code_is_not_there(without_package):
    assert without_package["seen"] == []


def test_weights_in_parts_come_back(hub, pushed, loaded):
    assert sum(name.endswith(".safetensors") for name in files(hub, "user/parts")) > 1
    assert agree(loaded["parts"], pushed["models"]["fingerprints"][2])


def test_a_timm_model_comes_back(pushed, loaded):
    assert agree(loaded["timm"], pushed["timm"]["fingerprint"])


def test_a_timm_push_comes_back_in_the_wrapper_of_transformers_where_it_does_not_write_num_classes_twice(
    hub, pushed, loaded
):
    """Once this fails, README need not name the exception any more; what `gkgnet-hf push` sends comes back anyway."""
    config = json.loads(hub.repositories["models/user/gkgnet_s"].find("main").files["config.json"].content)
    if "num_classes" in config["model_args"]:  # since timm 1.0.31
        assert str(loaded["wrapped"]).endswith("got multiple values for keyword argument 'num_classes'")
    else:
        assert agree(loaded["wrapped"], pushed["timm"]["fingerprint"])


def test_a_folder_of_timm_comes_back_in_timm_and_its_wrapper_as_the_card_says(hub, pushed, loaded):
    assert agree(loaded["timm folder"], [pushed["timm"]["fingerprint"]] * 2)
    card = hub.repositories["models/user/timm-folder"].find("main").files["README.md"].content.decode()
    assert 'AutoModelForImageClassification.from_pretrained("user/timm-folder")' in card


def test_the_patch_nodes_of_a_released_file_come_back_in_timm_and_its_wrapper(loaded):
    converted = loaded["converted"]
    assert converted["codes"] == [0, 0]
    assert agree(converted["timm"], converted["local"])
    assert agree(converted["wrapped"], converted["local"])


def test_training_pushes_as_it_saves(hub, pushed, loaded):
    assert history(hub, "user/trained")[0].title == "End of training"
    assert agree(loaded["trained"], [step["classifier"] for step in pushed["trained"]])
    assert loaded["processor"].startswith("ViTImageProcessor")


def test_every_push_of_a_training_carries_the_code_and_none_the_token(hub, pushed):
    for commit in history(hub, "user/trained"):
        assert hub.token.encode() not in b"".join(blob.content for blob in commit.files.values())
        if "config.json" in commit.files:
            assert "modeling_gkgnet.py" in commit.files


def test_only_safetensors_are_written(hub, pushed):
    for name in ("user/gkgnet-coco-576", "user/parts", "user/gkgnet_s", "user/trained", "user/folder"):
        for commit in history(hub, name):
            assert not {path for path in commit.files if path.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))}
        assert any(path.endswith(".safetensors") for path in files(hub, name))


def test_a_pickle_is_refused(hub, loaded):
    for refusal in loaded["pickles"]:
        assert "Error: " in refusal
    sent = [exchange.path for exchange in hub.exchanges if exchange.method == "GET"]
    assert not [path for path in sent if path.endswith(".bin")]
    assert "weights" in loaded["safetensors beside a pickle"]


def test_a_folder_is_pushed_to_main_a_branch_and_a_pull_request(hub, pushed, loaded):
    first, second = pushed["folder"]["fingerprints"]
    assert agree(loaded["folder"], [first, second, second])
    main, branch, pull = pushed["folder"]["urls"]
    assert main.endswith(hub.repositories["models/user/folder"].find("main").id)
    assert branch.endswith(hub.repositories["models/user/folder"].find("try/second").id)
    assert pull.endswith("/discussions/1")


def test_a_folder_is_pushed_in_one_commit_without_what_is_nobodys_business(hub, pushed):
    assert [commit.title for commit in history(hub, "user/folder")] == ["Upload model", "initial commit"]
    assert {"README.md", "config.json", "model.safetensors"} <= files(hub, "user/folder")
    assert not {
        name for name in files(hub, "user/folder") if not name.endswith((".json", ".md", ".py", ".safetensors"))
    }
    assert not {name for name in files(hub, "user/folder") if "/" in name or name.startswith(".")}


def test_private_is_private_or_an_error(hub, pushed):
    assert hub.repositories["models/user/folder"].private
    code, _, err = pushed["folder"]["public"]
    assert code == 2
    assert f"{REPO} already exists and is public" in err


@pytest.mark.parametrize("case", ["public", "wrong token", "wrong name"])
def test_a_refusal_of_the_hub_is_one_line_and_exit_code_2(pushed, case):
    code, out, err = pushed["folder"][case]
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("gkgnet-hf: ")
    assert "Traceback" not in err
    assert ("(log in with `hf auth login`, or set HF_TOKEN)" in err) is (case == "wrong token")


def test_a_wrong_token_loads_nothing(loaded):
    assert "Error: " in loaded["wrong token"]
    assert "401" in loaded["wrong token"]


def test_an_interrupted_push_changes_nothing_and_the_next_completes_it(hub, pushed, loaded):
    upload, commit, success = pushed["interrupted"]["tries"]
    assert [attempt["code"] for attempt in (upload, commit, success)] == [2, 2, 0]
    assert "Nothing was changed in user/interrupted" in upload["err"]
    after, before, _ = history(hub, "user/interrupted")
    assert upload["sha"] == commit["sha"] == before.id
    assert success["sha"] == after.id
    assert agree(loaded["pushed again"], pushed["interrupted"]["fingerprint"])


def test_a_push_replaces_former_weights_and_keeps_other_files(hub, pushed):
    assert "notes.txt" in files(hub, "user/interrupted")
    assert "model.safetensors" not in files(hub, "user/interrupted")


def test_an_interrupted_download_leaves_nothing_that_loads(loaded):
    assert loaded["interrupted"]["left"]
    for tried, *weights in loaded["interrupted"]["left"]:
        assert "Error: " in tried
        assert weights == []
    assert agree(loaded["interrupted"]["fingerprint"], fingerprint(build(0)))


def test_a_bit_that_flips_among_the_tensors_is_found_by_the_check_of_the_cache(loaded):
    assert loaded["flipped"] == [[], ["model.safetensors"]]


def test_a_stale_answer_gives_one_state_or_the_other(pushed):
    assert any(agree(pushed["stale"], fingerprint(build(seed))) for seed in (5, 6))


def test_the_snippets_of_the_docs_run_as_written(hub, loaded):
    assert len(snippets("docs/sharing.md", "python", "sh")) == 3
    done = loaded["README"]
    assert agree(done["loaded"], done["pushed"])
    assert agree(*done["converted"])
    assert hub.repositories["models/user/gkgnet-coco"].private
    card = hub.repositories["models/user/my-gkgnet"].find("main").files["README.md"].content.decode()
    assert "license: mit" in card
    assert card.count("## Use") == 1
    assert card.endswith("## Garden\n\nCats live there.\n")
