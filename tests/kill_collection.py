"""Labels a folder of pictures in child processes that are killed at random moments, until one gets to the end.

    python -m tests.kill_collection MODEL PICTURES OUTPUT KILLS SEED

Prints how many children were killed. Everything is imported before the first child, which no thread has seen then.
"""

import os
import random
import signal
import sys
import time

from gkgnet_hf.predict import collection, outputs
from gkgnet_hf.predict.predictor import Predictor
from gkgnet_hf.predict.rows import read_rows

BATCH_SECONDS = 0.03  # so that no child is done before it is killed


def label(model, pictures, output, begun):
    collection.PART_ROWS = 8  # many parts, so that many moments are dangerous
    predictor = Predictor(model, threshold=0.4)
    score = predictor.score

    def slowly(pixel_values):
        time.sleep(BATCH_SECONDS)
        return score(pixel_values)

    predictor.score = slowly
    results = outputs.Parts(output, predictor.rules.names, predictor.manifest)
    os.write(begun, b".")
    collection.label_collection(predictor, read_rows([pictures]), results, batch_size=4, num_workers=0)


def main(model, pictures, output, kills, seed):
    chance = random.Random(int(seed))
    killed = 0
    while True:
        begun, begins = os.pipe()
        child = os.fork()
        if child == 0:
            label(model, pictures, output, begins)
            os._exit(0)
        os.close(begins)
        if killed < int(kills):
            os.read(begun, 1)
            time.sleep(chance.uniform(0, 5 * BATCH_SECONDS))
            os.kill(child, signal.SIGKILL)
        os.close(begun)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        killed += 1
    print(killed)


if __name__ == "__main__":
    main(*sys.argv[1:])
