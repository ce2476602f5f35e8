"""Where things are, for unit tests of the models."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO_CHECKPOINT = ROOT / "demo_model" / "checkpoint"
