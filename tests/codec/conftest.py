"""A trained model of six variables and a file that it wrote."""

from __future__ import annotations

import pytest
import torch
from probkernels.circuits import EM, hclt
from probkernels.codec import PCCodec

from tests.codec.models import alike_rows as rows


@pytest.fixture(scope="module")
def model() -> PCCodec:
    """Trained, as a model that is not gives way to DEFLATE."""
    x = torch.from_numpy(rows(400)).long()
    circuit = hclt(x, latents=3, categories=5)
    EM(circuit, batch_size=None).fit(x, epochs=20, progress=False)
    return PCCodec(circuit)


@pytest.fixture(scope="module")
def blob(model: PCCodec) -> bytes:
    return model.compress(rows(900), chunk_items=200, lanes=2, embed=True)
