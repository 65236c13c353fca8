"""What each label looked at (Figures 5 and 6 of the paper): arrays first, pictures from them.

`attribution` reads the graph of a forward pass. `figures` draws it.
"""

from .attribution import Explanation, explain, image_area, patch_neighbors

__all__ = ["Explanation", "explain", "image_area", "patch_neighbors"]
