"""Models for the tests, and the repository's golden data."""

import json
from pathlib import Path

import pytest
import selfie_rs

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "crates/selfie-llama/tests/golden"

COLOSSEUM = "[INST] What is the capital of the country of the Colosseum? [/INST]"


class Golden:
    """A small checkpoint, with the results of PyTorch and of SelfIE's Python package in f32."""

    def __init__(self, name):
        self.path = GOLDEN / name
        self.data = json.loads((self.path / "golden.json").read_text())

    def open(self, **options):
        return selfie_rs.Model.open(self.path, **{"dtype": "f32", "device": "cpu", **options})

    def tensors(self):
        from safetensors.numpy import load_file

        return load_file(self.path / "golden.safetensors")


@pytest.fixture(scope="session")
def golden():
    return Golden("llama2-mha")


@pytest.fixture(scope="session")
def demo():
    return selfie_rs.Model.open(device="cpu")


@pytest.fixture
def colosseum():
    return COLOSSEUM
