"""What a push keeps of the card in the folder and of the one on the Hub, when either or both were edited."""

import json
from pathlib import Path

import pytest
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData

from gkgnet_hf import GKGNetForImageClassification
from gkgnet_hf.hub.card import folder_card, published_card, write_card
from gkgnet_hf.hub.card_merge import GENERATED
from gkgnet_hf.hub.push import push_folder

from .hub import HubServer, run_client
from .test_models import small_config

NAME = "user/pets"
GARDEN, ZOO, FARM = "## Garden\n\nCats live there.", "## Zoo\n\nNo cats.", "## Farm\n\nCats and dogs."


@pytest.fixture
def folder(tmp_path):
    """A model's folder with a card, without weights."""
    small_config().save_pretrained(tmp_path / "pets")
    write_card(tmp_path / "pets", license="mit")
    return tmp_path / "pets"


def push(folder, published=None):
    """The card on the Hub after a push; `published` is the one before."""
    return str(folder_card(folder, repo_id=NAME, published=published))


def write(folder, *sections):
    """Edit the card in the folder."""
    (folder / "README.md").write_text(below((folder / "README.md").read_text(), *sections))


def below(card, *sections):
    """The card with these sections below its generated part, in place of what was there."""
    return "\n\n".join([card[: GENERATED.search(card).end()], *sections]) + "\n"


def by_hand(card):
    """What stands below the generated part."""
    return card[GENERATED.search(card).end() :].strip()


def joined(*sections):
    return "\n\n".join(sections)


EDITED = GARDEN.replace("Cats", "Dogs")
SHORT = "## Garden\n\nCats"  # a part of another section's text

# Sections at a first push, then in the folder and on the Hub, and what a second push makes of them.
CASES = {
    "nothing changed": ([GARDEN, ZOO], [GARDEN, ZOO], [GARDEN, ZOO], [GARDEN, ZOO]),
    "edited in the folder": ([GARDEN, ZOO], [EDITED, ZOO], [GARDEN, ZOO], [EDITED, ZOO]),
    "edited on the Hub": ([GARDEN, ZOO], [GARDEN, ZOO], [EDITED, ZOO], [EDITED, ZOO]),
    "edited in both": ([GARDEN, ZOO], [EDITED, ZOO], [FARM, ZOO], [EDITED, FARM, ZOO]),
    "edited alike": ([GARDEN, ZOO], [EDITED, ZOO], [EDITED, ZOO], [EDITED, ZOO]),
    "deleted in the folder": ([GARDEN, ZOO], [ZOO], [GARDEN, ZOO], [ZOO]),
    "deleted in the folder as the last": ([GARDEN], [], [GARDEN], []),
    "deleted on the Hub": ([GARDEN, ZOO], [GARDEN, ZOO], [ZOO], [ZOO]),
    "deleted on the Hub as the last": ([GARDEN], [GARDEN], [], []),
    "deleted here, edited there": ([GARDEN, ZOO], [ZOO], [EDITED, ZOO], [EDITED, ZOO]),
    "added in both": ([GARDEN], [GARDEN, ZOO], [FARM, GARDEN], [FARM, GARDEN, ZOO]),
    "a part of the other's text": ([], [SHORT], [GARDEN], [SHORT, GARDEN]),
    "shortened in the folder": ([GARDEN], [SHORT], [GARDEN], [SHORT]),
    "moved on the Hub": ([GARDEN, ZOO], [GARDEN, ZOO], [ZOO, GARDEN], [ZOO, GARDEN]),
    "moved in the folder": ([GARDEN, ZOO], [ZOO, GARDEN], [GARDEN, ZOO], [ZOO, GARDEN]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_push_keeps_the_sections_of_the_side_that_changed(folder, case):
    first, in_folder, on_hub, expected = CASES[case]
    write(folder, *first)
    published = push(folder)
    assert by_hand(published) == joined(*first)
    write(folder, *in_folder)
    published = push(folder, below(published, *on_hub))
    assert by_hand(published) == joined(*expected)
    assert push(folder, published) == published


def test_what_was_written_on_the_hub_stays_though_the_folder_never_has_it(folder):
    write(folder, GARDEN)
    published = below(push(folder), GARDEN, ZOO)
    for section, expected in ((GARDEN, [GARDEN, ZOO]), (EDITED, [EDITED, ZOO]), (FARM, [FARM, ZOO])):
        write(folder, section)
        for _ in range(2):
            published = push(folder, published)
            assert by_hand(published) == joined(*expected)


@pytest.mark.parametrize("card", [True, False])
def test_a_push_from_another_folder_deletes_nothing(folder, tmp_path, card):
    write(folder, GARDEN)
    published = push(folder)
    small_config().save_pretrained(tmp_path / "again")
    if card:
        write_card(tmp_path / "again")
    published = push(tmp_path / "again", published)
    assert by_hand(published) == GARDEN
    assert ModelCard(published).data.license == "mit"


def test_a_new_folder_takes_over_what_is_on_the_hub_and_goes_on_from_there(folder, tmp_path):
    write(folder, GARDEN)
    small_config().save_pretrained(tmp_path / "again")
    path = write_card(tmp_path / "again", published=push(folder))  # which a Trainer pushes as it is
    published = path.read_text()
    write(tmp_path / "again", FARM)
    published = push(tmp_path / "again", published)
    assert by_hand(published) == FARM
    assert {*by_hand(push(folder, published)).split("\n\n## ")} == {GARDEN, FARM.removeprefix("## ")}


def test_a_card_written_by_hand_as_a_whole_can_be_edited_and_deleted(folder):
    (folder / "README.md").write_text(f"---\nlanguage: en\n---\n{GARDEN}\n\n{ZOO}\n")
    published = push(folder)
    assert by_hand(published) == joined(GARDEN, ZOO)
    (folder / "README.md").write_text(EDITED)
    published = push(folder, published)
    assert by_hand(published) == EDITED
    assert ModelCard(published).data.language is None


def test_text_stays_above_and_below_as_it_was_written(folder):
    code = "````python\n# no heading\n\n\nprint(1)\n```\n# nor this\n\n\n````"
    text = f"Read this first.  \nReally.\n\n{(folder / 'README.md').read_text().split('---', 2)[2].strip()}\n\n{code}\n"
    (folder / "README.md").write_text(f"---\nlicense: mit\n---\n{text}")
    card = ModelCard(push(folder, push(folder)))
    assert card.text.startswith("Read this first.  \nReally.\n\n<!-- gkgnet-hf: start")
    assert card.text.endswith(f"-->\n\n{code}\n")


def test_rewriting_the_folders_card_keeps_what_people_wrote_and_forgets_no_push(folder):
    write(folder, GARDEN)
    published = below(push(folder), GARDEN, ZOO)
    write_card(folder, published=published)
    assert by_hand((folder / "README.md").read_text()) == joined(GARDEN, ZOO)
    once = (folder / "README.md").read_text()
    write_card(folder)
    assert (folder / "README.md").read_text() == once
    published = push(folder, published)
    write(folder, GARDEN)
    assert by_hand(push(folder, published)) == GARDEN


def test_metadata_are_those_of_the_side_that_changed(folder):
    published = push(folder)

    def licence(card, **given):
        data = ModelCard(str(folder_card(folder, repo_id=NAME, published=card, **given))).data
        return data.license, data.license_name

    by_hand_on_hub = published.replace("license: mit", "license: other\nlicense_name: ours\nlanguage: en")
    assert licence(by_hand_on_hub) == ("other", "ours")
    assert licence(by_hand_on_hub, license="apache-2.0") == ("apache-2.0", None)
    assert licence(published.replace("license: mit\n", "")) == (None, None)
    write_card(folder, license="bsd")
    assert licence(published) == licence(by_hand_on_hub) == ("bsd", None)
    assert ModelCard(push(folder, by_hand_on_hub)).data.language == "en"


def test_tags_and_results_that_were_deleted_do_not_come_back(folder):
    zoo = EvalResult("image-classification", "user/zoo", "zoo", "mAP", 10.0)
    data = ModelCardData(model_name="pets", eval_results=[zoo], tags=["pets", "cats"])
    (folder / "README.md").write_text(f"---\n{data}\n---\n")
    published = push(folder)
    assert ModelCard(published).data.eval_results == [zoo]
    (folder / "README.md").write_text("---\ntags: [pets]\n---\n")
    data = ModelCard(push(folder, published.replace("- cats", "- cats\n- dogs"))).data
    assert data.eval_results is None
    assert data.tags[3:] == ["pets", "dogs"]


def push_and_edit(directory):
    """Push, edit the card on the Hub and in the folder, and push again, to main and to a branch."""
    folder = Path(directory, "model")
    GKGNetForImageClassification(small_config()).save_pretrained(folder)
    (folder / "recipe.yaml").write_text("# the demo\ndataset: /home/me/photos\nmodel: ti\noutput_dir: ~/out\n")
    (folder / "evaluation.json").write_text('{"dataset": "/home/me/photos", "metrics": {"mAP": 50.0}}')
    (folder / "trainer_state.json").write_text('{"best_model_checkpoint": "/home/me/out/checkpoint-5"}')
    write_card(folder, license="mit")
    write(folder, GARDEN, ZOO)
    push_folder(folder, NAME)
    edited = below(published_card(NAME), GARDEN, ZOO, FARM).replace("license: mit", "license: bsd")
    HfApi().upload_file(path_or_fileobj=edited.encode(), path_in_repo="README.md", repo_id=NAME)
    write(folder, EDITED)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    push_folder(folder, NAME)
    push_folder(folder, NAME, revision="next")
    return before == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """Files of `main` and of a branch after `push_and_edit`, and whether it left the folder as it was."""
    directory = str(tmp_path_factory.mktemp("pushed"))
    with HubServer() as hub:
        code = f"from tests.test_card_merge import push_and_edit; result = push_and_edit({directory!r})"
        untouched = run_client(code, hub.environment())
        repository = hub.repositories[f"models/{NAME}"]
        branches = {
            name: {path: blob.content for path, blob in repository.find(name).files.items() if not blob.lfs}
            for name in ("main", "next")
        }
    return branches, untouched


def test_over_the_wire_both_sides_edits_stay_and_the_folder_is_left_alone(pushed):
    branches, untouched = pushed
    card = branches["main"]["README.md"].decode()
    assert by_hand(card) == joined(EDITED, FARM)
    assert ModelCard(card).data.license == "bsd"
    assert untouched


def test_snippets_load_the_branch_that_was_pushed(pushed):
    branches, _ = pushed
    main, branch = (branches[name]["README.md"].decode() for name in ("main", "next"))
    assert "revision" not in main.replace("trust_remote_code", "")
    assert branch.count(f'"{NAME}", revision="next")') == 4
    assert f'from_pretrained("{NAME}")' not in branch


def test_no_path_of_this_machine_is_published(pushed):
    files = pushed[0]["main"]
    assert files["recipe.yaml"] == b"# the demo\ndataset: photos\nmodel: ti\noutput_dir: out\n"
    assert json.loads(files["evaluation.json"])["dataset"] == "photos"
    assert not [name for name, content in files.items() if b"/home/me" in content]
