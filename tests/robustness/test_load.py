"""Many pictures take the memory of a few."""

import csv
import io
import subprocess
import sys

import PIL.Image
import pytest

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, create_image_processor

PICTURES = 4000
LABELS = ["cat", "dog", "owl"]
MEASURED = """
import sys, threading, time
from gkgnet_hf.cli import main
seen = []
def watch():
    while True:
        with open("/proc/self/statm") as file:
            seen.append(int(file.read().split()[1]) * 4096 / 1e6)
        time.sleep(0.2)
threading.Thread(target=watch, daemon=True).start()
try:
    main()
finally:
    print(*seen, file=open("memory.txt", "w"))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in /proc")
@pytest.mark.parametrize(
    "words", [("predict", "model", "data", "--csv"), ("evaluate", "model", "data", "--split", "all")]
)
def test_memory_stays_flat_over_many_pictures(tmp_path, words, capsys):
    content = io.BytesIO()
    PIL.Image.effect_noise((64, 64), 90).convert("RGB").save(content, "jpeg")
    (tmp_path / "data").mkdir()
    names = [f"{number:05d}.jpg" for number in range(PICTURES)]
    for name in names:
        (tmp_path / "data" / name).write_bytes(content.getvalue())
    with (tmp_path / "data/metadata.csv").open("w", newline="") as file:
        rows = [(name, LABELS[number % 3]) for number, name in enumerate(names)]
        csv.writer(file).writerows([("file_name", "labels"), *rows])
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: number for number, name in enumerate(LABELS)}}
    config = GKGNetConfig(hidden_sizes=[8] * 4, depths=[1] * 4, num_neighbors=3, num_groups=1, image_size=32, **labels)
    GKGNetForImageClassification(config).save_pretrained(tmp_path / "model")
    create_image_processor(config).save_pretrained(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    memory = [float(value) for value in (tmp_path / "memory.txt").read_text().split()]
    third, end = memory[len(memory) // 3], memory[-1]
    with capsys.disabled():
        print(f"\n{words[0]}, {PICTURES:,} pictures: {third:.0f} MB after a third of the time, {end:.0f} at the end")
    assert end < third + 60
