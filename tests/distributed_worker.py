"""What each of two processes does in test_distributed.py; started by torchrun, not by pytest.

    torchrun --standalone --nproc_per_node=2 tests/distributed_worker.py RESTORER_CONFIG CQE_CONFIG OUTPUT_FOLDER

Trains both stages with the scripts' own `run`, and writes what this process alone knows to OUTPUT_FOLDER/rank<r>.pt:
the keys it computed at each step, the queue it ended with, and the weights it ended with.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

import train_cqe
import train_restorer
from engine.config import parse_config
from engine.distributed import gather_rows, mean_over_ranks, process_group


def main() -> None:
    restorer_config, cqe_config, output = sys.argv[1:]
    torch.set_num_threads(1)
    keys: list[Tensor] = []
    stages = []

    def recording_gather(rows: Tensor) -> Tensor:
        keys.append(rows.clone())
        return gather_rows(rows)

    def recording(train):
        def run(stage, *arguments, **options):
            stages.append(stage)
            return train(stage, *arguments, **options)

        return run

    train_cqe.gather_rows = recording_gather
    train_cqe.train = recording(train_cqe.train)
    train_restorer.train = recording(train_restorer.train)
    with process_group("cpu") as process:
        train_restorer.run(parse_config(train_restorer.RestorerConfig, ["--config", restorer_config]), process)
        train_cqe.run(parse_config(train_cqe.CqeConfig, ["--config", cqe_config]), process)
        restorer, encoder = stages
        seen = {
            "keys": torch.stack(keys),
            "queue": encoder.module.queue,
            "restorer": restorer.module.state_dict(),
            "query_encoder": dict(encoder.module.query_encoder.named_parameters()),
            "key_encoder": dict(encoder.module.key_encoder.named_parameters()),
            "gathered": gather_rows(torch.full((2, 3), float(process.rank))),
            "mean": mean_over_ranks(torch.tensor([float(process.rank), 4.0])),
        }
        torch.save(seen, Path(output) / f"rank{process.rank}.pt")


if __name__ == "__main__":
    main()
