"""Claims about the Hub in tests/hub, made by the installed client, unmodified, in processes of its own."""

from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from .hub import Blob, HubServer, Write, run_client

PRELUDE = """
import os
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

api = HfApi()

def download(file, **options):
    return Path(api.hf_hub_download("user/net", file, **options)).read_text()

def refusal(call, *arguments, **options):
    try:
        return repr(call(*arguments, **options))
    except Exception as error:
        return [type(error).__name__, getattr(getattr(error, "response", None), "status_code", None)]
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def client(hub: HubServer, code: str, environment: dict[str, str] | None = None) -> Any:
    return run_client(PRELUDE + dedent(code), environment or hub.environment())


def create(hub: HubServer, files: dict[str, bytes], private: bool = False) -> None:
    """The repository user/net with these files, large where their name ends in .bin."""
    repository = hub.create_repository("models/user/net", private)
    writes = [Write(path, Blob(content, lfs=path.endswith(".bin"))) for path, content in files.items()]
    repository.commit("main", writes, title="Add files")


def contents(hub: HubServer) -> dict[str, bytes]:
    files = hub.repositories["models/user/net"].find("main").files
    return {path: blob.content for path, blob in files.items() if path != ".gitattributes"}


def asked(hub: HubServer, *methods: str) -> list[tuple[str, int]]:
    """What was asked for, and the status of the answers, by these methods."""
    return [(exchange.path, exchange.status) for exchange in hub.exchanges if exchange.method in methods]


def test_files_come_back_by_branch_tag_and_commit(hub):
    result = client(
        hub,
        """
        assert api.create_repo("net").repo_id == api.create_repo("user/net", exist_ok=True).repo_id == "user/net"
        first = api.create_commit(
            "user/net",
            [CommitOperationAdd("config.json", b"one"), CommitOperationAdd("weights.bin", b"large one")],
            commit_message="Start",
        )
        api.create_tag("user/net", tag="v1")
        api.create_branch("user/net", branch="try/it")
        api.upload_file(path_or_fileobj=b"two", path_in_repo="config.json", repo_id="user/net")
        for file in ("config.json", "other.json"):
            api.upload_file(path_or_fileobj=b"three", path_in_repo=file, repo_id="user/net", revision="try/it")
        revisions = ["main", "v1", "try/it", first.oid]
        result = [[download(file, revision=r) for r in revisions] for file in ("config.json", "weights.bin")]
        """,
    )
    assert result == [["two", "one", "three", "one"], ["large one"] * 4]


def test_large_files_go_to_the_store_in_parts_and_come_back_whole(hub):
    result = client(
        hub,
        """
        api.create_repo("user/net")
        content = os.urandom(12 * 2**20)
        api.upload_file(path_or_fileobj=content, path_in_repo="weights.bin", repo_id="user/net")
        result = Path(api.hf_hub_download("user/net", "weights.bin")).read_bytes() == content
        """,
    )
    assert result
    assert len(asked(hub, "PUT")) == 3
    assert [status for path, status in asked(hub, "HEAD") if "weights" in path] == [302]


def test_an_unchanged_file_makes_no_commit(hub):
    create(hub, {"config.json": b"{}", "weights.bin": b"large"})
    client(
        hub,
        """
        files = [CommitOperationAdd("config.json", b"{}"), CommitOperationAdd("weights.bin", b"large")]
        result = api.create_commit("user/net", files, commit_message="Again").oid
        """,
    )
    assert len(hub.repositories["models/user/net"].commits) == 2


def test_a_file_in_the_cache_is_not_sent_again(hub):
    create(hub, {"config.json": b"{}", "weights.bin": b"large"})
    environment = hub.environment()
    code = "result = [download('config.json'), download('weights.bin')]"
    assert client(hub, code, environment) == ["{}", "large"]
    del hub.exchanges[:]
    assert client(hub, code, environment) == ["{}", "large"]
    assert [exchange.method for exchange in hub.exchanges] == ["HEAD", "HEAD"]


def test_what_is_missing_raises_its_own_error(hub):
    create(hub, {"config.json": b"{}"})
    result = client(
        hub,
        """
        result = [
            refusal(api.hf_hub_download, "user/other", "config.json"),
            refusal(api.model_info, "user/other"),
            refusal(download, "config.json", revision="v9"),
            refusal(api.list_repo_files, "user/net", revision="v9"),
            refusal(download, "other.json"),
            [api.file_exists("user/net", "config.json"), api.file_exists("user/net", "other.json")],
        ]
        """,
    )
    missing = ["Repository"] * 2 + ["Revision"] * 2 + ["RemoteEntry"]
    assert result == [[f"{what}NotFoundError", 404] for what in missing] + [[True, False]]


def test_a_wrong_token_is_refused_everywhere(hub):
    create(hub, {"config.json": b"{}"})
    result = client(
        hub,
        "result = [refusal(api.whoami), refusal(api.create_repo, 'user/x'), refusal(download, 'config.json')]",
        hub.environment(HF_TOKEN="hf_wrong"),
    )
    assert result == [["HfHubHTTPError", 401]] * 3


def test_a_private_repository_is_there_for_its_owner_alone(hub):
    create(hub, {"config.json": b"{}", "weights.bin": b"large"}, private=True)
    code = "result = [refusal(download, file) for file in ('config.json', 'weights.bin')]"
    assert client(hub, code) == ["'{}'", "'large'"]
    assert client(hub, code, hub.environment(HF_TOKEN=None)) == [["RepositoryNotFoundError", 401]] * 2
    other = hub.environment(HF_TOKEN=hub.add_user("other"))
    assert client(hub, code, other) == [["RepositoryNotFoundError", 404]] * 2


def test_other_users_open_pull_requests_but_do_not_commit(hub):
    create(hub, {"config.json": b"one"})
    result = client(
        hub,
        """
        upload = dict(path_or_fileobj=b"two", path_in_repo="config.json", repo_id="user/net")
        refused = refusal(api.upload_file, **upload)
        pull = api.upload_file(**upload, create_pr=True)
        result = [refused, pull.pr_revision, download("config.json"), download("config.json", revision="refs/pr/1")]
        """,
        hub.environment(HF_TOKEN=hub.add_user("other")),
    )
    assert result == [["HfHubHTTPError", 403], "refs/pr/1", "one", "two"]


def test_a_commit_on_a_stale_parent_is_refused(hub):
    create(hub, {"config.json": b"one"})
    parent = hub.repositories["models/user/net"].find("main").id
    hub.repositories["models/user/net"].commit("main", [Write("config.json", Blob(b"two"))], title="Meanwhile")
    result = client(
        hub,
        f"""
        upload = dict(path_or_fileobj=b"three", path_in_repo="config.json", repo_id="user/net")
        result = [refusal(api.upload_file, **upload, parent_commit="{parent}"), download("config.json")]
        """,
    )
    assert result == [["HfHubHTTPError", 412], "two"]


def test_a_commit_happens_whole_or_not_at_all(hub):
    create(hub, {"config.json": b"one"})
    result = client(
        hub,
        """
        operations = [CommitOperationAdd("config.json", b"two"), CommitOperationDelete("missing.json")]
        result = refusal(api.create_commit, "user/net", operations, commit_message="Half of it")
        """,
    )
    assert result == ["RemoteEntryNotFoundError", 404]
    assert contents(hub) == {"config.json": b"one"}


@pytest.mark.parametrize("kind", ["upload", "commit"])
def test_a_push_that_fails_leaves_the_repository_as_it_was(hub, kind):
    create(hub, {"config.json": b"one"})
    if kind == "upload":
        hub.faults.upload_error(status=403, after=1)
    else:
        hub.faults.commit_error(status=500)
    code = """
        names = ["a.bin", "b.bin", "config.json"]
        files = [CommitOperationAdd(name, f"new {name}".encode()) for name in names]
        result = refusal(api.create_commit, "user/net", files, commit_message="Push")
    """
    assert client(hub, code)[0] == {"upload": "RuntimeError", "commit": "HfHubHTTPError"}[kind]
    assert contents(hub) == {"config.json": b"one"}
    client(hub, code)
    assert contents(hub) == {name: f"new {name}".encode() for name in ("a.bin", "b.bin", "config.json")}


def test_the_client_gets_over_a_500_in_the_middle_of_an_upload(hub):
    create(hub, {})
    hub.faults.upload_error(status=500, after=1)
    client(
        hub,
        """
        content = bytes(12 * 2**20)
        result = api.upload_file(path_or_fileobj=content, path_in_repo="weights.bin", repo_id="user/net").oid
        """,
    )
    assert [status for _, status in asked(hub, "PUT")] == [200, 500, 200, 200]
    assert contents(hub) == {"weights.bin": bytes(12 * 2**20)}


def test_a_download_that_breaks_off_resumes_or_leaves_nothing_in_the_cache(hub):
    create(hub, {"weights.bin": bytes(12 * 2**20)})
    hub.faults.drop_download(after_bytes=11 * 2**20)
    environment = hub.environment()
    result = client(hub, "result = refusal(api.hf_hub_download, 'user/net', 'weights.bin')", environment)
    sent = [status for path, status in asked(hub, "GET") if "/api/" not in path]
    files = [file for file in Path(environment["HF_HOME"]).rglob("*.bin") if file.is_file()]
    if isinstance(result, str):
        assert sent == [200, 206]
        assert [file.read_bytes() for file in files] == [bytes(12 * 2**20)]
    else:  # version 1 of the client gives up
        assert result[0] == "RemoteProtocolError"
        assert files == []


def test_a_stale_revision_is_the_commit_before(hub):
    create(hub, {"config.json": b"one"})
    hub.repositories["models/user/net"].commit("main", [Write("config.json", Blob(b"two"))], title="Change")
    hub.faults.stale_revision()
    assert client(hub, "result = [api.model_info('user/net').sha, download('config.json')]") == [
        hub.repositories["models/user/net"].find("main").parent.id,
        "two",
    ]


def test_listings_agree_with_the_files(hub):
    card = b"---\nlicense: mit\npipeline_tag: image-classification\ntags: [gkgnet]\n---\n# A network\n"
    create(hub, {"README.md": card, "logs/a/1.txt": b"1", "weights.bin": b"large"})
    result = client(
        hub,
        """
        info = api.model_info("user/net", files_metadata=True)
        tree = {entry.path: getattr(entry, "size", None) for entry in api.list_repo_tree("user/net")}
        below = [entry.path for entry in api.list_repo_tree("user/net", "logs", recursive=True)]
        paths = [entry.path for entry in api.get_paths_info("user/net", ["logs", "weights.bin", "missing"])]
        large = next(file for file in info.siblings if file.rfilename == "weights.bin")
        result = {
            "card": [info.card_data.license, info.pipeline_tag, info.tags],
            "files": api.list_repo_files("user/net"),
            "tree": tree,
            "below": below,
            "paths": paths,
            "large": [large.size, large.lfs.sha256],
            "commits": [commit.title for commit in api.list_repo_commits("user/net")],
        }
        """,
    )
    assert result == {
        "card": ["mit", "image-classification", ["gkgnet"]],
        "files": [".gitattributes", "README.md", "logs/a/1.txt", "weights.bin"],
        "tree": {".gitattributes": 602, "README.md": len(card), "logs": None, "weights.bin": 5},
        "below": ["logs/a", "logs/a/1.txt"],
        "paths": ["logs", "weights.bin"],
        "large": [5, Blob(b"large").sha256],
        "commits": ["Add files", "initial commit"],
    }


def test_references_come_and_go(hub):
    create(hub, {})
    result = client(
        hub,
        """
        api.create_branch("user/net", branch="dev")
        api.create_tag("user/net", tag="v1")
        refused = refusal(api.create_tag, "user/net", tag="v1")
        references = api.list_repo_refs("user/net")
        api.delete_branch("user/net", branch="dev")
        api.delete_tag("user/net", tag="v1")
        after = api.list_repo_refs("user/net")
        result = [refused] + [
            [ref.name for ref in refs] for refs in (references.branches, references.tags, after.branches, after.tags)
        ]
        """,
    )
    assert result == [["HfHubHTTPError", 409], ["main", "dev"], ["v1"], ["main"], []]


def test_a_folder_is_uploaded_without_what_is_to_be_ignored(hub, tmp_path):
    for path in ("config.json", "logs/1.txt", "checkpoint-5/weights.bin"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(path)
    create(hub, {"old.json": b"old", "other.json": b"other"})
    code = f"""
        result = api.upload_folder(
            repo_id="user/net", folder_path="{tmp_path}", ignore_patterns=["checkpoint-*"], delete_patterns=["old*"]
        )
    """
    client(hub, code)
    assert contents(hub) == {"other.json": b"other", "config.json": b"config.json", "logs/1.txt": b"logs/1.txt"}


def test_what_gitignore_names_is_left_out_of_this_commit_and_later_ones(hub, tmp_path):
    create(hub, {})
    for name in (".gitignore", "a.bin", "b.bin", "config.json"):
        (tmp_path / name).write_text("a.bin\n")
    client(hub, f"result = api.upload_folder(repo_id='user/net', folder_path='{tmp_path}')")
    assert set(contents(hub)) == {".gitignore", "b.bin", "config.json"}
    code = "result = api.upload_file(path_or_fileobj=b'again', path_in_repo='logs/a.bin', repo_id='user/net')"
    client(hub, code)
    assert set(contents(hub)) == {".gitignore", "b.bin", "config.json"}


def test_files_folders_and_repositories_can_be_deleted(hub):
    create(hub, {"a.txt": b"a", "b.txt": b"b", "logs/1.txt": b"1", "logs/2/3.txt": b"3"})
    result = client(
        hub,
        """
        api.delete_file("a.txt", "user/net")
        api.delete_folder("logs", "user/net")
        files = api.list_repo_files("user/net")
        api.delete_repo("user/net")
        result = [files, api.repo_exists("user/net")]
        """,
    )
    assert result == [[".gitattributes", "b.txt"], False]


def test_a_card_with_wrong_metadata_is_refused_before_anything_moves(hub):
    create(hub, {})
    result = client(
        hub,
        """
        def push(card):
            upload = dict(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id="user/net")
            return refusal(api.upload_file, **upload)

        result = [push(f"---\\n{data}\\n---\\n") for data in ("license: 3", "license: foo", "a: b: c", "license: mit")]
        """,
    )
    assert result[:3] == [["ValueError", None]] * 3
    assert contents(hub) == {"README.md": b"---\nlicense: mit\n---\n"}


def test_a_dataset_and_a_model_of_one_name_are_two_repositories(hub):
    result = client(
        hub,
        """
        for kind in ("model", "dataset"):
            api.create_repo("user/net", repo_type=kind)
            files = [CommitOperationAdd("a.txt", kind.encode()), CommitOperationAdd("b.bin", kind.encode())]
            api.create_commit("user/net", files, commit_message="Add", repo_type=kind)
        result = [download(file, repo_type=kind) for kind in ("model", "dataset") for file in ("a.txt", "b.bin")]
        """,
    )
    assert result == ["model", "model", "dataset", "dataset"]


def test_a_request_that_the_hub_does_not_know_is_no_answer(hub):
    with pytest.raises(HTTPError, match="501"):
        urlopen(f"{hub.endpoint}/api/papers/1")


def test_the_store_refuses_a_token_and_content_under_another_name(hub):
    with pytest.raises(HTTPError, match="400"):
        urlopen(Request(f"{hub.store_endpoint}/name", headers={"Authorization": f"Bearer {hub.token}"}))
    with pytest.raises(HTTPError, match="400"):
        urlopen(Request(f"{hub.store_endpoint}/{'0' * 64}", data=b"other", method="PUT"))
    assert hub.large_files == {}
