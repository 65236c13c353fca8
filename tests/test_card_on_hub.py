"""Cards that people and the Trainer push, and edits of them on the Hub; what the cards say runs as written."""

import json
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, hf_hub_download
from PIL import Image
from transformers import TrainerCallback

from gkgnet_hf import GKGNetForImageClassification, create_image_processor
from gkgnet_hf.hub.card import EditedCardError, published_card, write_card
from gkgnet_hf.hub.push import push_folder
from gkgnet_hf.training import MultiLabelTrainer, MultiLabelTrainingArguments

from .hub import Blob, HubServer, Write, run_client
from .hub_clients import command
from .test_card import HAND_WRITTEN, LABELS, config
from .test_card_timm import python, save_timm
from .test_models import WIDTHS

pytestmark = pytest.mark.slow  # all wait for one process that pushes, edits and trains


def edit(name, text):
    """Edit a card on the Hub."""
    card = f"{published_card(name)}\n{text}\n".encode()
    HfApi().upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=name)


def push_and_edit():
    """Pushes of one folder, with edits of its card on the Hub between them, and what is on the Hub after each."""
    folder = Path("model")
    GKGNetForImageClassification(config()).save_pretrained(folder)
    (folder / "recipe.yaml").write_text("# the demo\ndataset: /home/me/photos\nmodel: ti\noutput_dir: ~/out\n")
    (folder / "evaluation.json").write_text('{"dataset": "/home/me/photos", "metrics": {"mAP": 50.0}}')
    (folder / "trainer_state.json").write_text('{"best_model_checkpoint": "/home/me/out/checkpoint-5"}')
    card = write_card(folder, license="mit")
    card.write_text(f"{card.read_text()}\nOf the folder.\n")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    push_folder(folder, "user/model")
    found = {"pushed": published_card("user/model")}
    edit("user/model", "Of the Hub.")
    found["edited"] = published_card("user/model")
    card.write_text(f"{card.read_text()}\nOf the folder again.\n")
    found["stopped"] = command("push", str(folder), "user/model", "--revision", "next")
    found["untouched"] = [published_card("user/model"), HfApi().revision_exists("user/model", "next")]
    card.write_bytes(before["README.md"])
    found["unchanged"] = before == {path.name: path.read_bytes() for path in folder.iterdir()}
    hf_hub_download("user/model", "README.md", local_dir=folder)
    card.write_text(f"{card.read_text()}\nOf the folder again.\n")
    push_folder(folder, "user/model", revision="next")
    found["fetched"] = published_card("user/model", "next")
    card.write_bytes(before["README.md"])
    assert command("push", str(folder), "user/model", "--overwrite-card")[0] == 0
    found["overwritten"] = published_card("user/model")
    (folder / "README.md").write_text("---\nlicense: foo\n---\n")
    found["refused"] = command("push", str(folder), "user/model", "--overwrite-card")
    return found


class EditOnTheHub(TrainerCallback):
    """Somebody edits the card before the second step."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.trainer._finish_current_push()
            edit("user/pets", "Edited.")


def push_while_training():
    """Push from each of two steps and at the end into a repository with a card, which somebody edits twice."""
    torch.manual_seed(0)
    network = config(decision_threshold=[0.0, 0.0, 0.0])
    options = {
        "model": GKGNetForImageClassification(network),
        "args": MultiLabelTrainingArguments(
            output_dir="trained",
            max_steps=2,
            save_steps=1,
            per_device_train_batch_size=2,
            report_to="none",
            use_cpu=True,
            push_to_hub=True,
            hub_model_id="user/pets",
            hub_always_push=True,
        ),
        "train_dataset": [{"pixel_values": torch.randn(3, 64, 64), "labels": torch.tensor([1.0, 0, 0])}] * 4,
        "eval_dataset": [{"pixel_values": torch.randn(3, 64, 64), "labels": torch.tensor([1.0, 0, 1])}] * 4,
        "processing_class": create_image_processor(network),
        "callbacks": [callback := EditOnTheHub()],
    }
    callback.trainer = trainer = MultiLabelTrainer(**options)
    trainer.train()
    metrics = trainer.evaluate()
    trainer.push_to_hub(dataset_tags="user/photos")
    moved = [path.name for path in Path("trained").glob("_*")]
    edit("user/pets", "Edited again.")
    with pytest.raises(EditedCardError, match=r"`hf download user/pets README\.md --local-dir trained`"):
        MultiLabelTrainer(**options)
    return [metrics["eval_mAP"], moved]


def run_python():
    """What the Python of the trained model's card and of a timm model's card prints and makes."""
    save_timm(Path("classifier"), "gkgnet_s", converted=False, num_classes=5)
    write_card("classifier", repo_id="user/classifier", license="apache-2.0")
    HfApi().create_repo("user/classifier")
    HfApi().upload_folder(repo_id="user/classifier", folder_path="classifier")
    result = []
    for name in ("user/pets", "user/classifier"):
        for snippet in python(ModelCard.load(name).text):
            printed = []
            exec(snippet, namespace := {"print": lambda *words, to=printed: to.append(words[0])})
            result.append([printed, *(list(feature.shape) for feature in namespace.get("features", []))])
            if "classify" in namespace:
                result[-1] = namespace["classify"]("photo.jpg", top_k=None)
    return result


def do_all(directory):
    """Everything in one process, since it takes one seconds to start."""
    os.chdir(directory)
    return {"folder": push_and_edit(), "training": push_while_training(), "python": run_python()}


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def done(hub, tmp_path_factory):
    """What `do_all` says."""
    directory = tmp_path_factory.mktemp("clients")
    Image.new("RGB", (80, 60), (200, 60, 100)).save(directory / "photo.jpg")
    repository = hub.create_repository("models/user/pets")
    repository.commit("main", [Write("README.md", Blob(HAND_WRITTEN.encode()))], title="By hand")
    return run_client(
        f"from tests.test_card_on_hub import do_all; result = do_all({str(directory)!r})", hub.environment()
    )


def by_hand(card):
    """What stands below the generated part."""
    return " ".join(card.split("<!-- gkgnet-hf: end")[1].split("-->")[1].split())


def test_a_card_that_somebody_edited_on_the_hub_stops_the_push_before_anything_is_sent(done):
    code, out, err = done["folder"]["stopped"]
    assert (code, out) == (2, "")
    assert "Somebody edited the card of user/model on the Hub" in err
    assert "`hf download user/model README.md --revision next --local-dir model`" in err
    assert done["folder"]["untouched"] == [done["folder"]["edited"], False]


def test_after_it_was_fetched_and_edited_again_the_push_keeps_both(done):
    assert by_hand(done["folder"]["pushed"]) == "Of the folder."
    assert by_hand(done["folder"]["fetched"]) == "Of the folder. Of the Hub. Of the folder again."


def test_on_request_the_folders_card_replaces_it(done):
    assert done["folder"]["overwritten"] == done["folder"]["pushed"]


def test_a_licence_that_the_hub_does_not_know_stops_the_push(hub, done):
    code, _, err = done["folder"]["refused"]
    assert code == 2
    assert '"license" must be one of' in err
    assert (
        hub.repositories["models/user/model"].find("main").files["README.md"].content.decode()
        == (done["folder"]["overwritten"])
    )


def test_snippets_load_the_branch_that_was_pushed(done):
    main, branch = done["folder"]["pushed"], done["folder"]["fetched"]
    assert "revision" not in main.replace("trust_remote_code", "")
    assert branch.count('"user/model", revision="next")') == 4
    assert 'from_pretrained("user/model")' not in branch


def test_a_push_changes_nothing_in_the_folder_and_publishes_no_path_of_this_machine(hub, done):
    assert done["folder"]["unchanged"]
    commit = hub.repositories["models/user/model"].find("main")
    files = {path: blob.content for path, blob in commit.files.items()}
    assert files["recipe.yaml"] == b"# the demo\ndataset: photos\nmodel: ti\noutput_dir: out\n"
    assert json.loads(files["evaluation.json"])["dataset"] == "photos"
    assert not [name for name, content in files.items() if b"/home/me" in content]


def test_the_trainer_keeps_what_people_write_before_and_while_it_trains(hub, done):
    score, moved = done["training"]
    commits = [
        commit for commit in hub.repositories["models/user/pets"].commits.values() if "config.json" in commit.files
    ]
    cards = [ModelCard(commit.files["README.md"].content.decode()) for commit in commits]
    texts = list(dict.fromkeys(by_hand(card.text) for card in cards))
    first = "# By hand From our own garden."
    assert texts == [first, f"{first} Edited.", f"{first} Edited. Edited again."]
    assert moved == ["_README-2.md"]
    assert not [name for commit in commits for name in commit.files if name.startswith("_")]
    for card in cards:
        assert "## Use" in card.text
        assert (card.data.license, card.data.language) == ("mit", "en")
    assert len(cards) > 3
    assert cards[-1].data.datasets == "user/photos"
    assert [r.metric_value for r in cards[-1].data.eval_results if r.metric_type == "mAP"] == [round(score, 2)]


def test_the_python_of_the_cards_runs_as_written(done):
    (printed,), predictions, (_, *features), (_, *timm_features) = done["python"]
    assert printed == LABELS
    assert sorted(row["label"] for row in predictions) == sorted(LABELS)
    sizes = [[1, width, 16 // 2**i, 16 // 2**i] for i, width in enumerate(WIDTHS)]
    assert features == timm_features == sizes


def test_the_hub_takes_the_metadata_of_every_card_but_the_wrong_one(hub, done):
    statuses = [exchange.status for exchange in hub.exchanges if exchange.path == "/api/validate-yaml"]
    assert sorted(statuses) == [200] * (len(statuses) - 1) + [400]
