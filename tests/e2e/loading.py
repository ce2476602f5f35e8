"""A server that begins to load its models when the test says so: until then they are loading."""

from pathlib import Path

from stress.chaos.faults import HOLD_LOADING, copy_repository
from tools.stack import ROOT


class HeldModels:
    """A model repository that is held back.

    Attributes:
        settings: of the server that is to have it.
    """

    def __init__(self, folder: Path) -> None:
        faults = folder / "faults"
        faults.mkdir()
        self._hold = faults / HOLD_LOADING
        self._hold.touch()
        repository = copy_repository(ROOT / "model_repository", folder / "models")
        self.settings = {"GLM_MODEL_REPOSITORY": str(repository), "GLM_CHAOS": str(faults)}

    def let_go(self) -> None:
        """Let them be loaded."""
        self._hold.unlink(missing_ok=True)
