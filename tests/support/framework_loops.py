"""Training loops of frameworks over a SpoolDataset, which print what each rank is given.

    python -m tests.support.framework_loops LOOP SPOOL STOP

LOOP is stateful, lightning or accelerate; under torchrun the last two use all ranks. With a STOP above 0, the loop
is left after that many batches, its state is saved as the framework saves it, and a new loop continues. Each
rank prints one line: its rank, and the JSON list of what it was given.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from darkprep.trainer import SpoolDataset
from tests.support.sequences import Seen, hashed

BATCH_SIZE, SEED = 4, 3

Batch = dict[str, Any]


def dataset(spool: str, **options: Any) -> SpoolDataset:
    return SpoolDataset(spool, batch_size=BATCH_SIZE, seed=SEED, **options)


def seen(batch: Batch) -> Seen:
    return hashed(batch["index"], batch["key"], batch["low"], batch["gt"])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 12, 1), nn.PixelShuffle(2))

    def forward(self, low: Tensor) -> Tensor:
        restored: Tensor = self.layers(low)
        return restored


def stateful(spool: str, stop: int) -> list[Seen]:
    from torchdata.stateful_dataloader import StatefulDataLoader

    loader = StatefulDataLoader(dataset(spool), batch_size=None)
    given, state = [], None
    for number, batch in enumerate(loader, start=1):
        given.append(seen(batch))
        if number == stop:
            state = json.loads(json.dumps(loader.state_dict()))
            break
    if state:
        loader = StatefulDataLoader(dataset(spool), batch_size=None)
        loader.load_state_dict(state)
        given += [seen(batch) for batch in loader]
    return given


def lightning(spool: str, stop: int) -> list[Seen]:
    import pytorch_lightning as lightning
    from pytorch_lightning.callbacks import ModelCheckpoint

    given: list[Seen] = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: Batch, number: int) -> Tensor:
            given.append(seen(batch))
            loss: Tensor = nn.functional.l1_loss(self.net(batch["low"]), batch["gt"])
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    ranks = int(torch.distributed.is_torchelastic_launched()) + 1
    with tempfile.TemporaryDirectory() as folder:

        def fit(steps: int, resume: str | None = None) -> None:
            trainer = lightning.Trainer(
                accelerator="cpu",
                devices=ranks,
                strategy="ddp" if ranks > 1 else "auto",
                max_epochs=1,
                max_steps=steps,
                logger=False,
                callbacks=[ModelCheckpoint(folder, save_last=True, every_n_train_steps=stop)]
                if stop
                else [],
                enable_checkpointing=bool(stop),
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=folder,
            )
            trainer.fit(Module(), dataset(spool), ckpt_path=resume, weights_only=True)

        if stop:
            fit(stop)
            fit(-1, str(Path(folder, "last.ckpt")))
        else:
            fit(-1)
    return given


def accelerate(spool: str, stop: int) -> list[Seen]:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    net, optimiser = accelerator.prepare(Net(), torch.optim.AdamW(Net().parameters()))
    batches = dataset(spool, device=accelerator.device)
    accelerator.register_for_checkpointing(batches)
    given = []

    def train(end: int) -> None:
        for number, batch in enumerate(batches, start=1):
            given.append(seen(batch))
            accelerator.backward(nn.functional.l1_loss(net(batch["low"]), batch["gt"]))
            optimiser.step()
            optimiser.zero_grad()
            if number == end:
                break

    train(stop)
    if stop:
        folder = str(Path(spool).parent / "state")
        accelerator.save_state(folder)
        batches.load_state_dict({"batch": 0})  # which load_state replaces
        accelerator.load_state(folder)
        train(0)
    accelerator.end_training()
    return given


def main() -> None:
    torch.set_num_threads(1)
    loop, spool, stop = sys.argv[1:]
    loops = {"stateful": stateful, "lightning": lightning, "accelerate": accelerate}
    given = loops[loop](spool, int(stop))
    rank = os.environ.get("RANK", "0")
    sys.stdout.write(f"given {rank} {json.dumps(given)}\n")


if __name__ == "__main__":
    main()
