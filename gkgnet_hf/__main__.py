"""`python -m gkgnet_hf` is the command `gkgnet-hf`."""

from .cli import main

main()
