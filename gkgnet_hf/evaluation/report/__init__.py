"""The report of an evaluation: one HTML file that opens offline.

`bootstrap`, `curves`, `label_pairs`, `worst_pictures` and `mistakes` compute the numbers, `plots` draws some of them,
and `page` makes the file.
"""

from .mistakes import find_mistakes, write_mistakes
from .page import check_files, check_same_labels, evaluate_other, write_report
from .worst_pictures import Pictures

__all__ = [
    "Pictures",
    "check_files",
    "check_same_labels",
    "evaluate_other",
    "find_mistakes",
    "write_mistakes",
    "write_report",
]
