"""A push publishes the regular files that a model needs, and nothing else that lies or is linked in its folder."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from gkgnet_hf import GKGNetForImageClassification, create_image_processor
from gkgnet_hf.hub.card import folder_card, inherited_metadata, write_card
from gkgnet_hf.hub.card_text import code as code_span
from gkgnet_hf.hub.model_folder import published_content, published_files
from gkgnet_hf.hub.push import find_model_files, push_folder
from gkgnet_hf.training import MultiLabelTrainer, MultiLabelTrainingArguments

from ..hub import HubServer, run_client
from ..test_models import small_config

SECRET = "the key of the safe"
NEEDED = {"config.json", "preprocessor_config.json", "model.safetensors", "README.md"}
RESULTS = {"recipe.yaml", "evaluation.json", "all_results.json", "train_results.json", "eval_results.json", "LICENSE"}

# What lies in folders of models, by accident or by somebody's hand.
STRAY = [
    *(".env", ".git/config", ".netrc", "id_rsa", "id_rsa.txt", "notes.md", "notes.txt", "secrets.json", "secrets.yaml"),
    *("photo.jpg", "photo.png", "bad_images.csv", "labels.csv", "optimizer.pt", "training_args.bin", "scheduler.pt"),
    *("trainer_state.json", "training_weights.safetensors", "rng_state.pth", "events.out.tfevents.1.host.2", "evil.py"),
    *("runs/host/events.out.tfevents.1", "checkpoint-1/model.safetensors", "checkpoint-1/config.json", "a.log"),
    *("sub/README.md", "sub/config.json", "_README-2.md", "model.safetensors.bak", "model-00001-of-00002.safetensors"),
    *("adapter_config.json", "config.json.orig", "README.md~", "setup.py", "data/metadata.csv", "wandb/run.json"),
]


def save_model(folder, **options):
    config = small_config()
    GKGNetForImageClassification(config).save_pretrained(folder, **options)
    create_image_processor(config).save_pretrained(folder)


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def outside(tmp_path):
    """A file and a folder of this machine that are none of the Hub's business."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "README.md").write_text(SECRET)
    (tmp_path / "secret").write_text(SECRET)
    return tmp_path


def code(names):
    return {name for name in names if name.endswith(".py")}


def test_what_lies_beside_a_model_stays_where_it_is(folder, capsys):
    for name in RESULTS:
        (folder / name).write_text("{}")
    whole = set(find_model_files(folder))
    for name in STRAY:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(SECRET)
    found = set(find_model_files(folder))
    assert found == whole
    assert found - code(found) == {"config.json", "preprocessor_config.json", "model.safetensors", *RESULTS}
    assert {"configuration_gkgnet.py", "modeling_gkgnet.py", "vision_gnn.py"} <= code(found)
    with capsys.disabled():
        print(f"\n{len(STRAY)} stray files, 0 of them published; {len(found)} files of the model published")


def test_the_code_that_goes_is_what_the_configuration_names_and_imports(folder):
    saved = code(path.name for path in folder.iterdir())
    assert code(find_model_files(folder)) == saved
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "auto_map": {"AutoModel": "../evil.Evil"}}))
    (folder.parent / "evil.py").write_text(SECRET)
    assert not code(published_files(folder))


LINKS = [*sorted(NEEDED | RESULTS), "modeling_gkgnet.py", "notes.md", "runs", "LICENSE.txt", "NOTICE"]


@pytest.mark.parametrize("name", LINKS)
def test_a_link_is_not_followed(folder, outside, name):
    """A needed file that is a link is an error; any other is left out, and the card does not read it."""
    target = outside / "secret"
    if (folder / name).exists() and name != "modeling_gkgnet.py":
        (folder / name).rename(target := outside / f"secret-{name}")  # the link would still give a whole model
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside / "outside" if name == "runs" else target)
    assert name not in published_files(folder)
    if name in ("config.json", "model.safetensors"):
        with pytest.raises(FileNotFoundError, match="link"):
            find_model_files(folder)
        return
    assert name not in find_model_files(folder)
    assert SECRET not in str(folder_card(folder))
    assert SECRET not in write_card(folder).read_text()
    assert target.exists()


def test_the_licence_of_a_network_in_the_cache_of_the_hub_is_taken_over_all_the_same(folder, outside):
    (outside / "blob").write_text("---\nlicense: mit\nsecret: key\n---\n# A card\n")
    (folder / "README.md").symlink_to(outside / "blob")
    assert inherited_metadata(str(folder)) == {"license": "mit"}


def test_a_link_among_the_parts_of_the_weights_is_an_error(tmp_path):
    save_model(tmp_path / "model", max_shard_size="200KB")
    part = sorted((tmp_path / "model").glob("model-*.safetensors"))[0]
    part.rename(tmp_path / part.name)
    part.symlink_to(tmp_path / part.name)
    assert part.name not in published_files(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match=f"a part that is not there: {part.name}"):
        find_model_files(tmp_path / "model")


def test_pipes_and_dangling_links_are_left_out(folder):
    os.mkfifo(folder / "recipe.yaml")
    (folder / "evaluation.json").symlink_to("nowhere")
    (folder / "README.md").symlink_to(folder / "README.md")
    assert not {"recipe.yaml", "evaluation.json", "README.md"} & set(find_model_files(folder))
    assert "## Use" in folder_card(folder).text


def test_no_path_and_no_token_is_published_however_deep_it_stands(tmp_path):
    recipe = {
        "dataset": "/home/me/photos",
        "hub_token": SECRET,
        "config": {"start": ["/home/me/a", {"b": "~/b"}]},
        "label_names": ["cat", "/home/me/dog"],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(f"# written by hand\n{yaml.safe_dump(recipe)}")
    published = published_content(path)
    for private in (b"/home/me", b"~", SECRET.encode()):
        assert private not in published
    assert published.startswith(b"# written by hand\n")
    assert yaml.safe_load(published)["config"] == {"start": ["a", {"b": "b"}]}


def push_all(place):
    """Push a folder full of strays and links, and train with a push at every step, in a folder of the same kind."""
    os.chdir(place)
    for folder in ("model", "trained"):
        Path(folder).mkdir(exist_ok=True)
    save_model("model")
    links = {"README.md": "secret", "evaluation.json": "secret", "notes.md": "secret", "linked": "outside"}
    for folder in ("model", "trained"):
        for name in STRAY:
            if not name.startswith(("_", "checkpoint-")):
                Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
                Path(folder, name).write_text(SECRET)
        for name, target in links.items():
            Path(folder, name).unlink(missing_ok=True)
            Path(folder, name).symlink_to(Path(place, target))
    push_folder("model", "user/pushed")
    rows = [{"pixel_values": torch.randn(3, 64, 64), "labels": torch.tensor([1.0, 0, 0, 1, 0])}] * 4
    for strategy in ("every_save", "checkpoint"):
        options = MultiLabelTrainingArguments(
            output_dir="trained",
            max_steps=2,
            save_steps=1,
            per_device_train_batch_size=2,
            report_to="tensorboard",
            use_cpu=True,
            push_to_hub=True,
            hub_model_id=f"user/{strategy}",
            hub_strategy=strategy,
            hub_always_push=True,
            hub_token=os.environ["HF_TOKEN"],
            logging_steps=1,
        )
        config = small_config()
        trainer = MultiLabelTrainer(
            model=GKGNetForImageClassification(config),
            args=options,
            train_dataset=rows,
            processing_class=create_image_processor(config),
        )
        trainer.train()
        trainer.push_to_hub()
    return sorted(path.name for path in Path("trained").iterdir())


@pytest.mark.slow
def test_nothing_else_reaches_the_hub_by_push_or_by_training(outside, capsys):
    with HubServer() as hub:
        environment = hub.environment(PYTHONPATH=str(Path(__file__).parents[2]))
        call = f"push_all({str(outside)!r})"
        run_client(f"from tests.robustness.test_publishing import push_all\nresult = {call}", environment)
        counts = []
        for name in ("pushed", "every_save", "checkpoint"):
            commits = list(hub.repositories[f"models/user/{name}"].commits.values())
            sent = {path: blob.content for commit in commits for path, blob in commit.files.items()}
            assert not [path for path, content in sent.items() if SECRET.encode() in content]
            assert not [path for path, content in sent.items() if hub.token.encode() in content]
            assert not [path for path, content in sent.items() if str(outside).encode() in content]
            model = {path for path in sent if "/" not in path} - {".gitattributes"}
            assert model >= NEEDED
            assert model - code(model) <= NEEDED | {"all_results.json", "train_results.json"}
            folders = {path.split("/")[0] for path in sent if "/" in path}
            assert folders == ({"last-checkpoint"} if name == "checkpoint" else set())
            counts.append(f"{name}: {len(commits)} commits, {len(sent)} files")
            if name == "checkpoint":
                state = {path.removeprefix("last-checkpoint/") for path in sent if path.startswith("last-checkpoint/")}
                assert {"optimizer.pt", "scheduler.pt", "trainer_state.json", "model.safetensors"} <= state
                assert "training_args.bin" not in state
    with capsys.disabled():
        print(f"\n{'; '.join(counts)}; 0 of {2 * len(STRAY)} stray and 8 linked files, 0 tokens, 0 paths published")


# Names of labels and data that mean something to Markdown, HTML, YAML, Jinja, a terminal or the card itself.
WORDS = [
    "<!-- gkgnet-hf: end -->",
    "<!-- gkgnet-hf: start. x -->",
    "a\n<!-- gkgnet-hf: end 0123456789abcdef -->\nb",
    "a\n---\nlicense: mit\n---\n# b",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](https://evil.example)",
    "![](https://evil.example/a.png)",
    "https://evil.example",
    "www.evil.example",
    "a|b|c",
    "| --- |",
    "`code`",
    "```\nrm -rf /\n```",
    "**bold** _it_ ~~no~~ $x$ &lt;b&gt;",
    "{{ 7 * 7 }} {% raw %}",
    "\x1b[31mred\x07\r\x00",
    "\u202egnp.exe",
    "a\u2028b\u2029c\x85d",
    "=cmd|' /C calc'!A0",
    "'quoted\" \\",
    "# heading",
    "- item",
    "    indented",
    "@everyone",
    "x" * 5000,
]


PLAIN = ("text", "softbreak", "inline", "text_special", "code_inline")


def hostile_card(folder, name):
    """The card of a folder in which everything that can be is called so."""
    config = small_config(id2label=dict(enumerate(WORDS)))
    config.save_pretrained(folder)
    per_label = [{"label": label, "AP": 50.0, "positives": 3} for label in WORDS]
    evaluation = {"metrics": {"mAP": 50.0}, "dataset": name, "split": name, "per_label": per_label}
    evaluation["size_metrics"] = {f"mAP_{name}": 3.0}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    recipe = {
        "dataset": name,
        "train_split": name,
        "augmentation": name,
        "backbone_checkpoint": name,
        "config": {name: 1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder_card(folder, converted_from=name)


def tokens(text):
    """Every token of a text in Markdown, with those inside of lines."""
    found = []
    for token in MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text):
        found += [token, *(token.children or ())]
    return found


@pytest.mark.parametrize("name", WORDS, ids=lambda name: ascii(name)[:30])
def test_a_name_is_text_in_a_card_and_nothing_else(tmp_path, name):
    usual, card = hostile_card(tmp_path / "usual", "photos"), hostile_card(tmp_path / "hostile", name)
    outline, expected = ([token for token in tokens(each.text) if token.type not in PLAIN] for each in (card, usual))
    assert [(token.type, token.tag) for token in outline] == [(token.type, token.tag) for token in expected]
    html = [token.content for token in outline if token.type.startswith("html")]
    assert [re.sub("end .*", "end", content.strip())[:30] for content in html] == [
        "<!-- gkgnet-hf: start. This pa",
        "<details><summary>All 26 label",
        "</details>",
        "<!-- gkgnet-hf: end",
    ]
    links = {token.attrs["href"] for token in outline if token.type == "link_open"}
    assert links == {token.attrs["href"] for token in expected if token.type == "link_open"}
    text = card.text.replace(code_span(name), "")
    assert not re.search(r"https?://(?!arxiv\.org)|www\.", text)  # some readers of Markdown link a bare address
    assert all(line.isprintable() for line in card.text.split("\n"))
    assert card.data.to_dict().keys() == usual.data.to_dict().keys()
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


def test_a_card_does_not_grow_whatever_labels_are_called(tmp_path, capsys):
    hostile_card(tmp_path, WORDS[2])
    sizes = [len(write_card(tmp_path).read_text()) for _ in range(4)]
    assert len(set(sizes)) == 1
    (tmp_path / "README.md").write_text((tmp_path / "README.md").read_text() + "\nMine: <!-- gkgnet-hf: end -->\n")
    kept = [write_card(tmp_path).read_text() for _ in range(3)]
    assert len(set(kept)) == 1
    assert kept[0].endswith("\nMine: <!-- gkgnet-hf: end -->\n")
    with capsys.disabled():
        print(f"\n{len(WORDS)} hostile names in cards; the card keeps its {sizes[0]:,} characters in 4 writes")
