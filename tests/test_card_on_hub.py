"""Cards that the Trainer and people push, and what they say run as written, against the Hub in tests/hub."""

import os
from pathlib import Path

import torch
from huggingface_hub import HfApi, ModelCard
from PIL import Image

from gkgnet_hf import GKGNetForImageClassification, create_image_processor
from gkgnet_hf.hub.card import write_card
from gkgnet_hf.training import MultiLabelTrainer, MultiLabelTrainingArguments

from .hub import Blob, HubServer, Write, run_client
from .test_card import HAND_WRITTEN, LABELS, config
from .test_card_timm import save_timm
from .test_models import WIDTHS


def push_while_training(directory):
    """Push from each of two steps and at the end, into a repository that has a card; and a model of timm."""
    os.chdir(directory)
    torch.manual_seed(0)
    network = config(decision_threshold=[0.0, 0.0, 0.0])
    trainer = MultiLabelTrainer(
        model=GKGNetForImageClassification(network),
        args=MultiLabelTrainingArguments(
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
        train_dataset=[{"pixel_values": torch.randn(3, 64, 64), "labels": torch.tensor([1.0, 0, 0])}] * 4,
        eval_dataset=[{"pixel_values": torch.randn(3, 64, 64), "labels": torch.tensor([1.0, 0, 1])}] * 4,
        processing_class=create_image_processor(network),
    )
    trainer.train()
    metrics = trainer.evaluate()
    trainer.push_to_hub(dataset_tags="user/photos")
    save_timm(Path("classifier"), "gkgnet_s", converted=False, num_classes=5)
    write_card("classifier", repo_id="user/classifier", license="apache-2.0")
    HfApi().create_repo("user/classifier")
    HfApi().upload_folder(repo_id="user/classifier", folder_path="classifier")
    return metrics["eval_mAP"]


# What the Python of both cards prints and makes, each piece in a namespace of its own.
RUN_SNIPPETS = """
import os, re
from contextlib import redirect_stdout
from io import StringIO
from huggingface_hub import ModelCard

os.chdir({directory!r})
result = []
for name in ("user/pets", "user/classifier"):
    for snippet in re.findall(r"```python\\n(.*?)```", ModelCard.load(name).text, flags=re.DOTALL):
        namespace, printed = {{}}, StringIO()
        with redirect_stdout(printed):
            exec(snippet, namespace)
        result.append([printed.getvalue(), *(list(f.shape) for f in namespace.get("features", []))])
        if "classify" in namespace:
            result[-1] = namespace["classify"]("photo.jpg", top_k=None)
"""


def test_the_hub_and_python_take_cards_as_they_are(tmp_path):
    Image.new("RGB", (80, 60), (200, 60, 100)).save(tmp_path / "photo.jpg")
    with HubServer() as hub:
        repository = hub.create_repository("models/user/pets")
        repository.commit("main", [Write("README.md", Blob(HAND_WRITTEN.encode()))], title="By hand")
        code = f"from tests.test_card_on_hub import push_while_training as push; result = push({str(tmp_path)!r})"
        score = run_client(code, hub.environment())
        commits = [commit for commit in repository.commits.values() if "config.json" in commit.files]
        cards = [ModelCard(commit.files["README.md"].content.decode()) for commit in commits]
        (printed,), predictions, (_, *features), (_, *timm_features) = run_client(
            RUN_SNIPPETS.format(directory=str(tmp_path)), hub.environment()
        )
    assert {exchange.status for exchange in hub.exchanges if exchange.path == "/api/validate-yaml"} == {200}
    assert len(cards) >= 3
    for card in cards:
        assert card.text.endswith("From our own garden.\n")
        assert "## Use" in card.text
        assert (card.data.license, card.data.language) == ("mit", "en")
    assert cards[-1].data.datasets == "user/photos"
    assert [r.metric_value for r in cards[-1].data.eval_results if r.metric_type == "mAP"] == [round(score, 2)]
    assert [line.split()[0] for line in printed.splitlines()] == LABELS
    assert sorted(row["label"] for row in predictions) == sorted(LABELS)
    assert features == [[1, width, 16 // 2**i, 16 // 2**i] for i, width in enumerate(WIDTHS)]
    assert timm_features == [[1, width, 16 // 2**i, 16 // 2**i] for i, width in enumerate(WIDTHS)]
