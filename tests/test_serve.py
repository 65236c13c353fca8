"""The files of docs/serve.md, as written: a web server, the handler of an endpoint, and Triton's configuration."""

import base64
import json
import os
import re
import socket
import subprocess
import sys
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

from gkgnet_hf import create_image_processor
from gkgnet_hf.export import export_model
from gkgnet_hf.predict import Predictor

from .networks import small_classifier
from .test_collection import draw, model  # noqa: F401, a fixture
from .test_readme import ROOT, snippets


@pytest.fixture(scope="module")
def workplace(model, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "my-gkgnet").symlink_to(model)
    draw(folder / "photos" / "a.png")
    Image.open(folder / "photos" / "a.png").save(folder / "photos" / "a.jpg")
    server, handler = snippets("docs/serve.md", "python")
    (folder / "server.py").write_text(server)
    (folder / "handler.py").write_text(handler)
    return folder


@pytest.fixture(scope="module")
def expected(workplace):
    """What the pipeline says of the picture."""
    return pipeline("image-classification", model=str(workplace / "my-gkgnet"))(str(workplace / "photos" / "a.jpg"))


def assert_same(found, expected):
    assert [row["label"] for row in found] == [row["label"] for row in expected]
    assert [row["score"] for row in found] == pytest.approx([row["score"] for row in expected], abs=1e-4)


@pytest.fixture(scope="module")
def port(workplace):
    """The port on which `server.py` listens."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "server:app", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(workplace)])}
    with (workplace / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=workplace, env=environment, stdout=log, stderr=log)
    while not accepts(port):
        assert server.poll() is None, (workplace / "log").read_text()
        time.sleep(0.1)
    yield port
    server.terminate()
    server.wait()


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_the_web_server_gives_a_picture_its_labels(workplace, port, expected):
    (command,) = snippets("docs/serve.md", "sh")
    command = ["bash", "-c", command.replace("8000", str(port))]
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True)
    assert_same(json.loads(done.stdout), expected[:2])


def test_the_web_server_refuses_what_is_no_picture_and_says_why(port):
    request = Request(f"http://127.0.0.1:{port}/", data=b"no picture", headers={"Content-Type": "image/png"})
    with pytest.raises(HTTPError) as refused:
        urlopen(request)
    assert refused.value.code == 422
    assert json.load(refused.value) == {"detail": "it is not a picture of a known format"}


def test_predictor_takes_a_picture_as_it_was_sent(workplace, expected):
    content = (workplace / "photos" / "a.jpg").read_bytes()
    found = Predictor(str(workplace / "my-gkgnet"), exact=True)({"image": [content]})["labels"][0]
    assert found == [row["label"] for row in expected if row["score"] >= 0.5]


@pytest.fixture(scope="module")
def handler(workplace):
    namespace = {}
    exec(compile((workplace / "handler.py").read_text(), "handler.py", "exec"), namespace)
    return namespace["EndpointHandler"](str(workplace / "my-gkgnet"))


def test_an_endpoint_gives_a_picture_its_labels(handler, workplace, expected):
    assert_same(handler({"inputs": Image.open(workplace / "photos" / "a.jpg").convert("RGB")}), expected)


def test_an_endpoint_gives_as_many_labels_as_json_asks_for(handler, workplace, expected):
    content = (workplace / "photos" / "a.jpg").read_bytes()
    assert_same(handler({"inputs": content, "parameters": None}), expected)
    text = base64.b64encode(content).decode()
    assert_same(handler({"inputs": text, "parameters": {"top_k": 2}}), expected[:2])


@pytest.mark.parametrize("place", ["photos/a.jpg", "http://127.0.0.1/a.jpg"])
def test_an_endpoint_opens_no_path_and_no_address(handler, workplace, place, monkeypatch):
    monkeypatch.chdir(workplace)
    with pytest.raises(ValueError, match="base64"):
        handler({"inputs": place})


@pytest.mark.slow
def test_the_configuration_of_triton_fits_the_exported_model(workplace):
    onnxruntime = pytest.importorskip("onnxruntime")
    network = small_classifier(["cat", "dog", "owl"], image_size=64)
    folder = export_model(network, create_image_processor(network.config), workplace / "my-gkgnet-onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (text,) = snippets("docs/serve.md", "pbtxt")
    tensor = r'{kind} \[ {{ name: "(\w+)" data_type: (\w+) dims: \[ ([-\d, ]+) \] }} \]'
    for kind, tensors in {"input": session.get_inputs(), "output": session.get_outputs()}.items():
        ((name, dtype, dims),) = re.findall(tensor.format(kind=kind), text)
        (found,) = tensors
        sizes = [size if isinstance(size, int) else -1 for size in found.shape]
        assert (found.name, found.type, dtype) == (name, "tensor(float)", "TYPE_FP32")
        assert sizes == [-1, *map(int, dims.split(","))]  # Triton puts the batch before them
    largest = int(re.findall(r"max_batch_size: (\d+)", text)[0])
    for batch in (1, largest):
        (logits,) = session.run(["logits"], {"pixel_values": np.zeros((batch, 3, 33, 40), dtype=np.float32)})
        assert logits.shape == (batch, 3)
