"""Checkpoints that are damaged, foreign or hostile: each resumes or is one error that names its file."""

import collections
import json
import os
import pickle
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ..test_trainer import build_trainer

STATES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
CASES = 110


class Payload:
    """What a hostile pickle would run."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    trainer = build_trainer(tmp_path_factory.mktemp("run"), max_steps=2, save_steps=1, save_strategy="steps")
    trainer.train()
    return Path(trainer.args.output_dir) / "checkpoint-1"


def damage_json(file, chance):
    content = json.loads(file.read_text())
    values = [None, True, -1, 0, 10**400, float("nan"), "text", "x\ny", [], {}, [[]], {"a": {"b": 1}}, 1.5]
    kind = chance.randrange(5)
    if kind == 0:
        file.write_text(json.dumps(chance.choice(values)))
    elif kind == 1:
        file.write_text(file.read_text()[: chance.randrange(len(file.read_text()))])
    elif kind == 2:
        content[f"field{chance.randrange(9)}"] = chance.choice(values)
        file.write_text(json.dumps(content))
    else:
        content[chance.choice(sorted(content))] = chance.choice(values)
        file.write_text(json.dumps(content))


def change(tree, chance):
    """Another value somewhere in the state of an optimiser or a schedule."""
    name = chance.choice(list(tree)) if isinstance(tree, dict) else chance.randrange(len(tree))
    if isinstance(tree[name], dict | list) and tree[name] and chance.random() < 0.7:
        change(tree[name], chance)
    else:
        tree[name] = chance.choice([None, "text", -1, [], {}, torch.zeros(3, 4), float("nan"), 10**30])


def damage_state(file, chance, canary):
    kind = chance.randrange(5)
    if kind == 0:
        file.write_bytes(pickle.dumps(Payload(canary)))
    elif kind == 1:
        torch.save({"state": Payload(canary)}, file)
    elif kind == 2:
        content = file.read_bytes()
        file.write_bytes(content[: chance.randrange(len(content))])
    elif kind == 3:
        torch.save(chance.choice([None, 1, [], {}, "text", torch.zeros(2)]), file)
    else:
        content = torch.load(file, weights_only=False)
        change(content, chance)
        torch.save(content, file)


def damage_weights(file, chance):
    kind = chance.randrange(4)
    if kind == 0:
        file.write_bytes(b"\xff" * 8 + b"{}")
    elif kind == 1:
        file.write_bytes(file.read_bytes()[: chance.randrange(2000)])
    else:
        tensors = load_file(file)
        name = chance.choice(sorted(tensors))
        if kind == 2:
            del tensors[name]
        else:
            tensors[name] = torch.zeros(7, 3)
        save_file(tensors, file, {"format": "pt"})


def damage_place(file, chance):
    file.unlink()
    kind = chance.randrange(3)
    if kind == 0:
        file.mkdir()
    elif kind == 1:
        os.mkfifo(file)


@pytest.mark.slow
def test_a_hostile_checkpoint_resumes_or_is_one_error_that_names_its_file(checkpoint, tmp_path):
    canary, counts, faults = tmp_path / "canary", collections.Counter(), []
    for seed in range(CASES):
        chance = random.Random(seed)
        folder = tmp_path / f"run{seed}"
        copy = shutil.copytree(checkpoint, folder / "checkpoint-1")
        way = seed % 4
        if way == 0:
            damage_json(copy / chance.choice(["trainer_state.json", "trainer_state.json", "config.json"]), chance)
        elif way == 1:
            damage_state(copy / chance.choice(STATES), chance, canary)
        elif way == 2:
            damage_weights(copy / "model.safetensors", chance)
        else:
            damage_place(copy / chance.choice([*STATES, "trainer_state.json", "model.safetensors"]), chance)
        before = {file.name: file.stat().st_mtime_ns for file in copy.iterdir()}
        trainer = build_trainer(folder, max_steps=2, save_strategy="no")
        try:
            trainer.train(resume_from_checkpoint=str(copy))
            counts["resumed"] += 1
        except (ValueError, OSError) as error:
            counts["one error"] += 1
            if str(copy) not in str(error) or "\n" in str(error).strip():
                faults.append((seed, way, repr(error)[:300]))
        except Exception as error:
            faults.append((seed, way, repr(error)[:300]))
        if {file.name: file.stat().st_mtime_ns for file in copy.iterdir()} != before:
            faults.append((seed, way, "the checkpoint was changed"))
        shutil.rmtree(folder)
    print(f"\n{CASES} checkpoints: {dict(counts)}, {len(faults)} at fault")
    assert not canary.exists()
    assert not faults, "\n".join(map(str, faults))
