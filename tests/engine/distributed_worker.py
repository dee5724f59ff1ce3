"""What each of two processes does in test_distributed.py; started by torchrun, not by pytest.

    torchrun --standalone --nproc_per_node=2 tests/engine/distributed_worker.py RESTORER_CONFIG CQE_CONFIG OUTPUT_FOLDER

Trains both stages with the scripts' own `run`, and the contrast of a linear encoder; writes what this process alone
knows to OUTPUT_FOLDER/rank<r>.pt: the keys and qualities it had at each step, the queue and weights it ended with.
"""

import signal
import sys
import time
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import engine.loop
import train_cqe
import train_restorer
from cqe.config import CqeConfig
from cqe.moco import MomentumContrast
from engine.config import parse_config
from engine.distributed import (
    Process,
    copy_from_main,
    dealt_over_ranks,
    gather_rows,
    largest_over_ranks,
    mean_over_ranks,
    process_group,
    results_over_ranks,
)
from engine.loop import Training
from engine.run_log import RunLog
from engine.signals import Stopped
from restoration.config import RestorerConfig
from restoration.weights import open_weights

EQUAL_QUALITIES = ("negatives", "skipped", "positives")


def main() -> None:
    restorer_config, cqe_config, output = sys.argv[1:]
    torch.set_num_threads(1)
    gathered: dict[int, list[Tensor]] = {2: [], 1: []}  # keys and qualities, by their number of dimensions
    stages = []

    def recording_gather(rows: Tensor) -> Tensor:
        gathered[rows.ndim].append(rows.clone())
        return gather_rows(rows)

    def recording(train_on):
        def run(stage, *arguments, **options):
            stages.append(stage)
            return train_on(stage, *arguments, **options)

        return run

    train_cqe.gather_rows = recording_gather
    train_cqe.train_on = recording(train_cqe.train_on)
    train_restorer.train_on = recording(train_restorer.train_on)
    with process_group("cpu") as process:
        train_restorer.run(parse_config(RestorerConfig, ["--config", restorer_config]), process)
        train_cqe.run(parse_config(CqeConfig, ["--config", cqe_config]), process)
        restorer, encoder = stages
        buffer = torch.full((2,), float(process.rank + 3))
        copy_from_main([buffer])
        dealt = dealt_over_ranks(torch.arange(4.0) + 4 * process.rank)
        seen = {
            "keys": torch.stack(gathered[2]),
            "qualities": torch.stack(gathered[1]),
            "queue": encoder.module.queue,
            "queue_quality": encoder.module.queue_quality,
            "restorer": restorer.module.state_dict(),
            "query_encoder": dict(encoder.module.query_encoder.named_parameters()),
            "key_encoder": dict(encoder.module.key_encoder.named_parameters()),
            "gathered": gather_rows(torch.full((2, 3), float(process.rank))),
            "mean": mean_over_ranks(torch.tensor([float(process.rank), 4.0])),
            "largest": largest_over_ranks(float(process.rank), -float(process.rank), process.rank == 0),
            "results": results_over_ranks(lambda index: index**2, 5),
            "copied": buffer,
            "validation": validation_scores(restorer_config, Path(output) / f"validation{process.rank}", process),
            "dealt": dealt.rows,
            "dealt_back": gather_rows(dealt.rows)[dealt.order],
            "dealt_own": gather_rows(dealt.rows)[dealt.own],
            "encoder": encoder.module.state_dict(),
            "contrast": {mode: contrast_steps(mode, process) for mode in EQUAL_QUALITIES},
            "stopped": stopped_by_rank_1(restorer_config, Path(output) / "stopped", process),
        }
        torch.save(seen, Path(output) / f"rank{process.rank}.pt")


def validation_scores(config_file: str | Path, log_folder: Path, process: Process) -> dict[str, float]:
    """What a validation of a network with fixed weights gives; no other number of processes may change a digit."""
    config = parse_config(RestorerConfig, ["--config", str(config_file)])
    encoder = open_weights(config.encoder, needs="encoder").encoder
    stage = train_restorer.RestorerStage(config, encoder, None, train_restorer.open_validation_images(config))
    with torch.no_grad():
        for parameter in stage.kept.parameters():
            parameter.copy_(0.05 * torch.arange(parameter.numel()).sin().view_as(parameter))
    log_folder.mkdir()
    with closing(RunLog(log_folder, process, first_step=0, last_step=1)) as log:
        return stage.validate(stage.kept.eval(), log, step=1)


def stopped_by_rank_1(config_file: str, run_dir: Path, process: Process) -> dict:
    """A training in which rank 1 alone gets a signal, after step 3: this process's exit status, and whether the run was
    saved when this process was about to end. Rank 0 is slow to save."""
    config = parse_config(RestorerConfig, ["--config", config_file, f"--trainer.run_dir={run_dir}"])
    update, save_step = Training._update, engine.loop.save_step

    def update_and_signal(self: Training) -> None:
        update(self)
        if self.progress.step == 3 and process.rank == 1:
            signal.raise_signal(signal.SIGTERM)

    def save_late(*arguments: object, **options: object) -> None:
        time.sleep(0.5)
        save_step(*arguments, **options)

    Training._update, engine.loop.save_step = update_and_signal, save_late
    try:
        train_restorer.run(config, process)
    except Stopped as stopped:
        return {"status": stopped.code, "is_saved": (run_dir / "summary.md").exists()}
    finally:
        Training._update, engine.loop.save_step = update, save_step


class LinearEncoder(nn.Module):
    """(N, 1, 4, 4) -> (N, 5). It has no batch normalisation, whose statistics would be each process's own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.linear(x.flatten(1)), []


def contrast_steps(mode: str, process: Process, *, num_steps: int = 5) -> dict:
    """Losses, gradients and last state of a few steps of contrast, this process training on its share of each batch."""
    torch.manual_seed(1)
    moco = MomentumContrast(
        LinearEncoder(),
        representation_size=5,
        queue_length=8,
        momentum=0.9,
        temperature=0.2,
        equal_qualities=mode,
        gather=gather_rows,
        deal=dealt_over_ranks,  # which changes nothing where there is no batch normalisation
    )
    model = moco if process.world_size == 1 else DistributedDataParallel(moco, broadcast_buffers=False)
    optimizer = torch.optim.SGD(moco.query_encoder.parameters(), lr=0.5)
    losses, gradients = [], []
    draw = torch.Generator().manual_seed(1)
    for _ in range(num_steps):
        patches = [torch.rand(4, 1, 4, 4, generator=draw) for _ in range(2)]
        batch = (*patches, torch.randint(0, 3, (4,), generator=draw))
        loss = model(*(values.chunk(process.world_size)[process.rank] for values in batch))["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(mean_over_ranks(loss.detach()))
        gradients.append(moco.query_encoder.linear.weight.grad.clone())
    return {"losses": torch.stack(losses), "gradients": torch.stack(gradients), "state": dict(moco.state_dict())}


if __name__ == "__main__":
    main()
