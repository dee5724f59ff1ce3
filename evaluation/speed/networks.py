"""Training steps and inference of our networks, against the released architecture as PyTorch runs it by default.

Each case runs in its own process, so that its peak memory can be measured. Processes of one kind run in turns, so that
the noise of a machine affects all of them alike.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from cqe.encoder import QualityEncoder
from cqe.weights import encoder_architecture, load_encoder
from evaluation.speed.ratios import memory_row, rates_row
from evaluation.speed.worker import MATMUL_SIDE, Case, Reading, build_network
from restoration.networks import NetworkConfig, PaperOptions

ROOT = Path(__file__).parent.parent.parent
CONFIGS = {"paper": "paper_gray", "fast": "fast_gray", "tiny": "fast_tiny_gray"}  # in configs/restorer
KINDS = {"step": "training step", "inference": "inference"}
BASELINE, PEAK = "release", "matmul"


def usual_cases(batch_size: int, size_px: int, device: torch.device, *, compile_step: bool | str) -> dict[str, Case]:
    """Our luma networks as their configs have them, by name, and the released one as `BASELINE`; all of kind "step"."""
    shared = {"kind": "step", "batch_size": batch_size, "size_px": size_px, "device": device.type}
    released = NetworkConfig("paper", paper=PaperOptions(released_fusion=True)).described()
    cases = {BASELINE: Case(is_ours=False, network=released, encoder={"in_channels": 1}, **shared)}
    for name, stem in CONFIGS.items():
        config = yaml.safe_load((ROOT / "configs" / "restorer" / f"{stem}.yaml").read_text())
        network = config["network"]
        described = NetworkConfig.of(network["name"], network.get(network["name"], {})).described()
        file = ROOT / config["encoder"]  # the paper's encoder is not shipped; it has the default size
        encoder = encoder_architecture(load_encoder(file) if file.is_file() else QualityEncoder(1))
        cases[name] = Case(is_ours=True, network=described, encoder=encoder, compile=compile_step, **shared)
    return cases


def network_rows(cases: Mapping[str, Case], num_rounds: int) -> tuple[list[dict], dict[str, str]]:
    """All rows on the networks, and the settings of each case.

    Args:
        cases: by name; one of them is `BASELINE`.
        num_rounds: how often each case runs, in turns with the others.

    Raises:
        ValueError: if a case does not fit into memory.
    """
    ours = [name for name in cases if name != BASELINE]
    rows, settings = [], {}
    for kind, title in KINDS.items():
        running = {name: replace(case, kind=kind) for name, case in cases.items()}
        peak = replace(cases[ours[0]], kind="matmul")
        readings = run_in_turns(running | {PEAK: peak}, num_rounds, title)
        seconds = {name: [reading.seconds for reading in rounds] for name, rounds in readings.items()}
        memory = {name: max(reading.peak_bytes for reading in rounds) for name, rounds in readings.items()}
        settings |= {f"{name} ({title})": rounds[0].settings for name, rounds in readings.items()}
        num_images = cases[BASELINE].batch_size
        for name in ours:
            versus = f"{title}, {name}: ours / release, eager float32"
            speeds = (seconds[name], seconds[BASELINE])
            rows.append(rates_row(versus, *speeds, "images/s", work=num_images, baseline_work=num_images))
            if memory[name] and memory[BASELINE]:
                rows.append(memory_row(f"peak memory of {versus}", memory[name], memory[BASELINE]))
        for name in ours:
            work = operations(running[name]) / 1e12
            peak_work = 2 * MATMUL_SIDE[peak.device] ** 3 / 1e12
            share = f"{title}, {name}: ours / matrix product in its type"
            rows.append(rates_row(share, seconds[name], seconds[PEAK], "TFLOP/s", work=work, baseline_work=peak_work))
    return rows, settings


def operations(case: Case) -> int:
    """Operations of a case's convolutions, two for a multiply-accumulate; with a step's backward pass."""
    with torch.device("meta"):  # only shapes are needed; nothing is computed
        network = build_network(case)
        images = torch.empty(case.batch_size, network.channels, case.size_px, case.size_px)
    is_step = case.kind == "step"
    with torch.set_grad_enabled(is_step), FlopCounterMode(display=False) as counter:
        restored = network.train(is_step)(images)
        if is_step:
            restored.sum().backward()
    return counter.get_total_flops()


def run_in_turns(cases: Mapping[str, Case], num_rounds: int, title: str) -> dict[str, list[Reading]]:
    """`num_rounds` readings of each case, by name. A first round is not counted.

    Raises:
        ValueError: if a case does not fit into memory.
    """
    readings: dict[str, list[Reading]] = {name: [] for name in cases}
    with ExitStack() as stack, tqdm(total=(1 + num_rounds) * len(cases), desc=title, disable=None) as bar:
        workers = {name: stack.enter_context(_worker(case)) for name, case in cases.items()}
        for _ in range(1 + num_rounds):
            for name, worker in workers.items():
                readings[name].append(_read(worker, name))
                bar.update()
    return {name: rounds[1:] for name, rounds in readings.items()}


@contextmanager
def _worker(case: Case) -> Iterator[subprocess.Popen]:
    """A process that waits to run the case. It ends with the context."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from evaluation.speed.worker import main; main()"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the others
    )
    with process:  # which closes the pipes and waits for the end
        try:
            _say(process, json.dumps(asdict(case)))
            yield process
        finally:
            process.kill()


def _read(process: subprocess.Popen, name: str) -> Reading:
    _say(process, "go")
    line = process.stdout.readline()
    if not line:
        if (status := process.wait()) == -signal.SIGKILL:
            raise ValueError(f"{name} was killed, most likely for its memory: choose fewer or smaller images")
        raise RuntimeError(f"the process that ran {name} ended with status {status}, see above")
    answer = json.loads(line)
    if "error" in answer:
        raise ValueError(f"{name}: {answer['error']}")
    return Reading(**answer)


def _say(process: subprocess.Popen, line: str) -> None:
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
