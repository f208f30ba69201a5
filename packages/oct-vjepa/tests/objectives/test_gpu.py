"""V-JEPA 2 on a GPU beside the same on the CPU; where there is none, with the CPU in its place.

uv run pytest -m gpu packages/oct-vjepa/tests/objectives/test_gpu.py     on a machine with a GPU
"""

import copy

import pytest
import torch
from oct_vjepa import JepaBatch, Masks, sample_masks

GPU = (
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() == 0, reason="needs a CUDA GPU"),
)
PLACES = [
    pytest.param("cpu", False),
    pytest.param("cpu", True, marks=pytest.mark.drill),  # tracing alone takes some 20 s
    pytest.param("cuda", False, marks=GPU),
    pytest.param("cuda", True, marks=GPU),
]
COMPILERS = {"cpu": "aot_eager", "cuda": "inductor"}
"""Of torch.compile; a CPU's inductor wants a C++ compiler."""


def ask(jepa, volume, device, *, bf16=False, compiled=False):
    """Loss, and norm of the gradient of each weight, on a device."""
    jepa = copy.deepcopy(jepa).to(device)
    if compiled:
        for block in (*jepa.encoder.blocks, *jepa.predictor.blocks):
            block.compile(backend=COMPILERS[device])
    generator = torch.Generator().manual_seed(0)
    drawn = sample_masks(jepa.masking, jepa.encoder.config.grid, len(volume), generator=generator)
    masks = tuple(Masks(*(ids.to(device) for ids in one)) for one in drawn)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
        loss = jepa.loss(JepaBatch(volume.to(device), masks), generator)["loss"]
    loss.backward()
    trained = [one for one in jepa.parameters() if one.requires_grad]
    norms = torch.stack([one.grad.norm() for one in trained])
    assert {one.grad.dtype for one in trained} == {torch.float32}
    return loss.item(), norms.cpu()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # where PyTorch looks at what it compiles
@pytest.mark.parametrize(("bf16", "tolerance"), [(False, 1e-4), (True, 2e-2)])
@pytest.mark.parametrize(("device", "compiled"), PLACES)
def test_loss_and_gradients_are_those_of_the_cpu(jepa, volume, device, bf16, tolerance, compiled):
    wanted, norms = ask(jepa, volume, "cpu", bf16=bf16)
    found, others = ask(jepa, volume, device, bf16=bf16, compiled=compiled)
    assert found == pytest.approx(wanted, abs=tolerance)
    assert torch.allclose(others, norms, rtol=tolerance, atol=tolerance * float(norms.max()))
