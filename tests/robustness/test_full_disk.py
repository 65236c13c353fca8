"""A disk that is full at any place costs one line, and no work that was done."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ..test_recipes import write_photos

ROOT = Path(__file__).parents[2]


def small_disks_can_be_mounted(folder):
    if shutil.which("unshare") is None:
        return False
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_a_disk_that_is_full_anywhere_is_one_line_and_loses_nothing(tmp_path, capsys):
    (tmp_path / "disk").mkdir()
    if not small_disks_can_be_mounted(tmp_path / "disk"):
        pytest.skip("this user cannot mount a file system of its own")
    write_photos(tmp_path / "photos", count=10)
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-m", "tests.robustness.full_disk", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    places = [json.loads(line) for line in done.stdout.splitlines()]
    full = [place for place in places if place["code"]]
    with capsys.disabled():
        print(f"\n{len(places)} places, {len(full)} of them full: {dict(Counter(p['command'] for p in full))}")
    faults = [place for place in places if place["wrong"] or place["code"] not in (0, 2)]
    for place in full:
        last = place["error"].strip().splitlines()[-1]
        if (
            "Traceback" in place["error"]
            or not last.startswith("gkgnet-hf: ")
            or not ("space" in last or "cannot be written" in last)
        ):
            faults.append(place)
    assert not faults, json.dumps(faults, indent=1)
    assert len(full) >= 20
