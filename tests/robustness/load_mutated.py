"""Load each mutated folder in this process, whose memory is bounded; what came of it goes to stdout, a line a case.

python -m tests.robustness.load_mutated FOLDER CASES FIRST
"""

import contextlib
import io
import json
import logging
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from gkgnet_hf.hub.card import folder_card
from gkgnet_hf.hub.push import find_model_files
from gkgnet_hf.modeling.image_processing_gkgnet import load_image_processor
from gkgnet_hf.predict import load_model, predict

MEMORY = 8 * 2**30


def load_as_predict(folder):
    model = load_model(str(folder))
    processor = load_image_processor(str(folder), model.config.num_channels)
    return predict(model, processor, [Image.new("RGB", (40, 30))])


ENTRANCES = {
    "AutoModelForImageClassification": AutoModelForImageClassification.from_pretrained,
    "AutoImageProcessor": AutoImageProcessor.from_pretrained,
    "push": find_model_files,
    "card": folder_card,
    "predict": load_as_predict,
}


def outcome(entrance, folder):
    try:
        ENTRANCES[entrance](folder)
    except (ValueError, OSError) as error:
        return "one error", f"{type(error).__name__}: {error}"
    except BaseException as error:
        return "other error", f"{type(error).__name__}: {error}"
    return "works", ""


def main():
    whole, cases, first = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), int(sys.argv[3])
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for number, (file, how, text) in enumerate(cases[first:], first):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place, "model")
            shutil.copytree(whole, folder)
            (folder / file).write_bytes(bytes.fromhex(text))
            for entrance in ENTRANCES:
                with contextlib.redirect_stdout(io.StringIO()):
                    kind, message = outcome(entrance, folder)
                line = json.dumps([number, file, how, entrance, kind, message[:500]])
                os.write(answers, line.encode() + b"\n")
    os.write(answers, json.dumps([len(cases), "", "", "end", "", ""]).encode() + b"\n")


if __name__ == "__main__":
    main()
