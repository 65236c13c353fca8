"""A Hub to test against: `HubServer` serves it, `run_client` talks to it from a fresh process."""

from .server import HubServer, run_client
from .storage import Blob, Delete, Write

__all__ = ["Blob", "Delete", "HubServer", "Write", "run_client"]
