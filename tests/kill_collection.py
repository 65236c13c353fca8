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


def label(model, pictures, output):
    collection.PART_ROWS = 8  # many parts, so that many moments are dangerous
    predictor = Predictor(model, threshold=0.4)
    results = outputs.Parts(output, predictor.rules.names, predictor.manifest)
    collection.label_collection(predictor, read_rows([pictures]), results, batch_size=4, num_workers=0)


def main(model, pictures, output, kills, seed):
    chance = random.Random(int(seed))
    killed, longest = 0, None
    while True:
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            label(model, pictures, output)
            os._exit(0)
        if killed < int(kills):
            # The first runs for a moment; the others are killed somewhere in what the last one needed.
            time.sleep(chance.uniform(0.2, longest or 1.0))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            if killed >= int(kills):
                break
            longest = 0.8 * (time.monotonic() - start)
        killed += os.WIFSIGNALED(status)
        if os.waitstatus_to_exitcode(status) == 0 and killed < int(kills):
            break
    print(killed)


if __name__ == "__main__":
    main(*sys.argv[1:])
