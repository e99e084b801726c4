"""The stream decodes exactly, transforms both arrays alike, and does not read a batch after its release."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from darkprep.shards.errors import OptionError
from darkprep.trainer.stream import DeviceStream, network_input, unit_range

CPU = torch.device("cpu")


def test_the_input_follows_the_formula_of_the_format(make_meta):
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 65536, (2, 4, 6, 5), dtype=np.uint16)
    metas = (make_meta("00000000-0000"), make_meta("00000000-0001", amplification=250.0))

    decoded = network_input(torch.from_numpy(codes), metas)

    black = np.array(metas[0].black)[:, None, None]
    gain = np.array([100.0, 250.0])[:, None, None, None]
    expected = (codes - black) / (metas[0].white - black) * gain
    np.testing.assert_allclose(decoded.numpy(), expected, rtol=3e-7)


def test_all_values_of_the_truth_become_their_fraction_of_the_range():
    codes = torch.from_numpy(np.arange(65536, dtype=np.uint16))

    np.testing.assert_array_equal(
        unit_range(codes).numpy(), np.arange(65536, dtype=np.float32) / np.float32(65535)
    )


def test_an_unaugmented_stream_cuts_the_middle(make_reader):
    reader = make_reader(side=196)
    batch = next(DeviceStream(reader, CPU, cfa="bayer", crop=192, augment="none"))

    same = next(make_reader(side=196))
    assert batch.index == 0
    assert batch.keys == ("00000000-0000", "00000000-0001")
    assert torch.equal(batch.gt, unit_range(torch.from_numpy(same.gt))[..., 2:194, 2:194])
    whole = network_input(torch.from_numpy(same.low), same.metas)
    assert torch.equal(batch.low, whole[..., 1:97, 1:97])


def test_a_batch_stays_valid_while_the_reader_overwrites_its_buffers(make_reader):
    reader = make_reader()
    stream = DeviceStream(reader, CPU, cfa="bayer", crop=192)
    batch = next(stream)
    before = batch.low.clone(), batch.gt.clone()

    next(reader)

    assert torch.equal(batch.low, before[0])
    assert torch.equal(batch.gt, before[1])


def test_a_batch_is_the_same_wherever_the_stream_starts(make_reader):
    late = DeviceStream(make_reader(start=3), CPU, cfa="bayer", crop=192, seed=5)
    early = DeviceStream(make_reader(), CPU, cfa="bayer", crop=192, seed=5)

    expected = next(late)
    for _ in range(3):
        next(early)
    batch = next(early)

    assert torch.equal(batch.low, expected.low)
    assert torch.equal(batch.gt, expected.gt)


def test_buffers_are_reused(make_reader):
    stream = DeviceStream(make_reader(), CPU, cfa="bayer", crop=192)

    addresses = [(batch.low.data_ptr(), batch.gt.data_ptr()) for batch, _ in zip(stream, range(3))]  # noqa: B905

    assert len(set(addresses)) == 1


def test_waiting_for_the_reader_is_counted(make_reader):
    slow = make_reader(before=lambda index: time.sleep(0.05))
    stream = DeviceStream(slow, CPU, cfa="bayer", crop=192)
    next(stream)
    next(stream)

    assert stream.wait_s() >= 0.1


def test_xtrans_samples_are_streamed_and_another_cfa_is_refused(make_reader):
    batch = next(DeviceStream(make_reader(side=198, cfa="xtrans"), CPU, cfa="xtrans", crop=192))

    assert batch.low.shape == (2, 9, 64, 64)
    with pytest.raises(OptionError, match="the samples are xtrans, but the network is for bayer"):
        next(DeviceStream(make_reader(side=198, cfa="xtrans"), CPU, cfa="bayer", crop=192))


@pytest.mark.gpu
def test_a_stream_on_cuda_equals_that_on_the_cpu(make_reader):
    cuda = torch.device("cuda")
    ours = DeviceStream(make_reader(), cuda, cfa="bayer", crop=192)
    theirs = DeviceStream(make_reader(), CPU, cfa="bayer", crop=192)

    for _ in range(6):
        batch, expected = next(ours), next(theirs)
        torch.cuda._sleep(10_000_000)  # type: ignore[no-untyped-call]
        assert torch.equal(batch.gt.cpu(), expected.gt)
        torch.testing.assert_close(batch.low.cpu(), expected.low, rtol=1e-6, atol=1e-7)
