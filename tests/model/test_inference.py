"""The fast forms of the networks compute the same function."""

import functools
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from darkprep.model import (
    MODELS,
    MOSAICS,
    CfaKind,
    ModelError,
    Network,
    build_model,
    load_model,
    own_network,
    ready_for_inference,
)
from darkprep.model.cuda import StreamedRedirt
from darkprep.model.inference import fold_weight_norm
from darkprep.model.rows import RowwiseRedirt


def planes(model: Network, height: int, width: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.rand(batch, model.mosaic.planes, height, width, generator=generator) * 1.5


@pytest.mark.parametrize(("height", "width"), [(64, 96), (320, 64), (352, 160)])
def test_ready_redirt_computes_the_published_function(
    published: ModuleType, released: Path, height: int, width: int
):
    mosaic = planes(load_model(released), height, width)[:, :1]
    state = torch.load(released, weights_only=True)["model"]
    torch.set_num_threads(2)

    ours = ready_for_inference(load_model(released))(F.pixel_unshuffle(mosaic, 2))

    torch.testing.assert_close(ours, published.restore(state, mosaic), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(100, 70), (34, 62), (2, 2), (322, 34)])
def test_other_sizes_are_padded_by_mirroring_and_cropped(
    published: ModuleType, released: Path, height: int, width: int
):
    mosaic = planes(load_model(released), height, width)[:, :1]
    state = torch.load(released, weights_only=True)["model"]
    packed = F.pixel_unshuffle(mosaic, 2)
    missing = (0, -width // 2 % 16, 0, -height // 2 % 16)
    mirrors = missing[1] < width // 2 and missing[3] < height // 2
    whole = F.pixel_shuffle(F.pad(packed, missing, mode="reflect" if mirrors else "replicate"), 2)

    ours = ready_for_inference(load_model(released))(packed)

    assert ours.shape == (1, 3, height, width)
    theirs = published.restore(state, whole)[..., :height, :width]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cfa", MOSAICS)
@pytest.mark.parametrize("name", MODELS)
def test_every_variant_computes_the_same_function(slim: None, name: str, cfa: CfaKind):
    model = build_model(name, cfa).eval()
    packed = planes(model, 48, 32, batch=2)

    ours = ready_for_inference(model)(packed)

    torch.testing.assert_close(ours, model(packed).detach(), rtol=0, atol=2e-5)


@functools.cache
def redirt(cfa: CfaKind) -> Network:
    return build_model("redirt", cfa)


@settings(max_examples=10, deadline=None)
@given(
    height=st.integers(1, 24),
    width=st.integers(1, 3),
    strip=st.integers(1, 80),
    threads=st.integers(1, 3),
    cfa=st.sampled_from(sorted(MOSAICS)),
)
def test_strips_and_bands_have_no_seams(
    height: int, width: int, strip: int, threads: int, cfa: CfaKind
):
    model = redirt(cfa)
    packed = planes(model, 16 * height, 16 * width)
    whole = model(packed).detach()
    torch.set_num_threads(threads)

    with torch.no_grad():
        ours = RowwiseRedirt(fold_weight_norm(model).body, strip=strip)(packed)

    assert torch.get_num_threads() == threads
    torch.testing.assert_close(ours, whole, rtol=0, atol=2e-5)


def test_the_unets_strips_have_no_seams():
    model = build_model("sid").eval()
    packed = planes(model, 1040, 16)

    ours = ready_for_inference(model)(packed)

    torch.testing.assert_close(ours, model(packed).detach(), rtol=0, atol=1e-5)


def test_the_encoders_can_run_separately():
    model = fold_weight_norm(build_model("redirt"))
    packed = planes(model, 64, 32)

    apart = StreamedRedirt(model.body)(packed)

    assert torch.equal(apart, model(packed))


@pytest.mark.parametrize("name", ["redirt", "sid"])
def test_bf16_is_close_to_fp32(name: str):
    model = build_model(name).eval()
    packed = planes(model, 96, 96)

    rough = ready_for_inference(model, precision="bf16")(packed)

    assert rough.dtype == torch.float32
    exact = ready_for_inference(model)(packed)
    assert (rough - exact).abs().max() < 0.05
    assert (rough - exact).abs().mean() < 0.005


class Exposed(nn.Module):
    """A network of one's own that computes with a float32 tensor which it makes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Sequential(nn.Conv2d(4, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, packed: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = self.last(packed * torch.linspace(0.5, 1, 4)[:, None, None])
        return scaled


def test_a_network_of_ones_own_computes_in_bf16_whatever_its_code_does():
    model = own_network("mine:Exposed", Exposed).eval()
    packed = planes(model, 32, 48)

    rough, exact = (ready_for_inference(model, precision=name)(packed) for name in ("bf16", "fp32"))

    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0, atol=0.05)


def test_preparation_changes_neither_the_model_nor_the_random_state():
    model = build_model("redirt").train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()

    ready_for_inference(model)(planes(model, 16, 16))

    assert model.training
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    model(planes(model, 16, 16)).mean().backward()


def test_later_training_does_not_change_a_prepared_network():
    model = build_model("redirt")
    ready = ready_for_inference(model)
    before = ready(planes(model, 16, 16))

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)

    assert torch.equal(before, ready(planes(model, 16, 16)))


def test_any_memory_layout_of_the_input_is_accepted():
    model = build_model("redirt")
    ready = ready_for_inference(model)
    packed = planes(model, 32, 48)
    shifted = torch.empty(packed.numel() + 1)[1:].view(packed.shape).copy_(packed)

    expected = ready(packed)

    assert torch.equal(expected, ready(packed.to(memory_format=torch.channels_last)))
    assert torch.equal(expected, ready(shifted))
    assert torch.equal(expected, ready(packed.double()))


def test_several_threads_can_call_at_once():
    model = build_model("redirt")
    ready = ready_for_inference(model)
    torch.set_num_threads(2)
    frames = [planes(model, 176, 16 * n) for n in (1, 2, 3)]
    expected = [ready(frame) for frame in frames]
    found: dict[int, torch.Tensor] = {}

    def work(n: int) -> None:
        found[n] = ready(frames[n])

    workers = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    for n, rgb in enumerate(expected):
        torch.testing.assert_close(found[n], rgb, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cfa", MOSAICS)
def test_bands_run_in_parallel_in_inference_mode_too(cfa: CfaKind):
    """The mode applies only to the thread that entered it."""
    model = build_model("redirt", cfa)
    packed = planes(model, 192, 32)
    expected = model(packed).detach()
    ready = ready_for_inference(model)
    torch.set_num_threads(2)

    with torch.inference_mode():
        found = ready(packed.clone())

    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_invalid_frames_are_refused():
    model = build_model("redirt")
    ready = ready_for_inference(model)

    with pytest.raises(ModelError, match="reads"):
        ready(torch.rand(1, 9, 32, 32))
    with pytest.raises(ModelError, match="empty"):
        ready(torch.rand(1, 4, 0, 32))


@pytest.mark.parametrize(
    ("precision", "message"), [("fp16", "needs a GPU"), ("int4", "fp32, bf16")]
)
def test_an_unavailable_precision_is_refused(precision: Any, message: str):
    with pytest.raises(ModelError, match=message):
        ready_for_inference(build_model("redirt"), precision=precision)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["redirt", "sid"])
def test_a_gpu_computes_the_same(name: str, precision: Any, monkeypatch: pytest.MonkeyPatch):
    # TF32 convolutions, torch's default on a GPU, have an error of 3e-3.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", precision != "fp32")
    model = build_model(name).eval()
    exact = ready_for_inference(model)
    fast = ready_for_inference(model, precision=precision, device="cuda")

    for size in ((96, 64), (96, 64), (33, 50)):
        packed = planes(model, *size)
        torch.testing.assert_close(
            fast(packed).cpu(), exact(packed), rtol=0, atol=1e-3 if precision == "fp32" else 0.05
        )


FULL_FRAME = """
import sys, torch
from pathlib import Path
from darkprep.model import build_model, ready_for_inference
torch.set_num_threads(2)
ready = ready_for_inference(build_model(sys.argv[1]))
rgb = ready(torch.rand(1, 4, 5520 // 2, 8288 // 2))
assert rgb.shape == (1, 3, 5520, 8288)
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["redirt", "sid"])
def test_a_45_megapixel_frame_stays_within_4_gib(name: str):
    done = subprocess.run(
        [sys.executable, "-c", FULL_FRAME, name], check=True, capture_output=True, text=True
    )

    assert int(done.stdout) * 1024 < 4 * 2**30
