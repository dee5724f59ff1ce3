"""Two gloo processes equal one: losses, weights, and the queue of keys."""

import re
import signal
from pathlib import Path

import pytest
import torch

import train_cqe
import train_restorer
from cqe.config import CqeConfig
from cqe.encoder import QualityEncoder
from cqe.weights import save_encoder
from engine.config import parse_config
from engine.distributed import (
    Process,
    from_main,
    gather_rows,
    largest_over_ranks,
    mean_over_ranks,
    process_group,
    wait_for_all,
)
from engine.run_folder import read_newest
from restoration.config import RestorerConfig
from tests.engine.distributed_worker import EQUAL_QUALITIES, contrast_steps, validation_scores
from tests.places import ROOT
from tests.program import run_python
from tests.synthetic import cqe_settings, make_data_root, restorer_settings, write_config

NUM_STEPS = 5


def test_one_process_needs_no_group() -> None:
    rows = torch.rand(3, 2)
    assert gather_rows(rows) is rows and mean_over_ranks(rows) is rows
    assert largest_over_ranks(0.5, True) == [0.5, True]
    wait_for_all()
    with process_group("cpu") as process:
        assert process == Process(0, 1, torch.device("cpu")) and process.is_main
    assert not Process(1, 2, torch.device("cpu")).is_main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two processes have trained both stages (`pair`, `pair_cqe`), and one (`alone`, `alone_cqe`).

    In stage 2, the two compute their shares of a batch in two parts, the one computes it as a whole.
    """
    folder = tmp_path_factory.mktemp("distributed")
    root = make_data_root(folder / "data")
    torch.manual_seed(0)
    encoder = QualityEncoder(1, width=8, remove_local_mean=True)
    encoder(torch.rand(8, 1, 32, 32))
    save_encoder(encoder, folder / "encoder.safetensors")
    limits = {"max_steps": NUM_STEPS, "validate_every_steps": 100}
    for name, parts in (("alone", 1), ("pair", 2)):
        settings = restorer_settings(root, folder / name, folder / "encoder.safetensors", micro_batches=parts, **limits)
        write_config(folder / f"{name}.yaml", settings)
    pairs = {"qualities_per_image": 2}
    moco = {"queue_length": 16, "momentum": 0.9, "temperature": 0.2, "equal_qualities": "positives"}
    for name, batch_norm in (("alone_cqe", "own"), ("pair_cqe", "synced")):
        settings = cqe_settings(root, folder / name, **limits) | {"pairs": pairs}
        settings["optim"] |= {"lr": 1.0e-4}
        write_config(folder / f"{name}.yaml", settings | {"moco": moco | {"batch_norm": batch_norm}})

    alone = Process(0, 1, torch.device("cpu"))
    train_restorer.run(parse_config(RestorerConfig, ["--config", str(folder / "alone.yaml")]), alone)
    train_cqe.run(parse_config(CqeConfig, ["--config", str(folder / "alone_cqe.yaml")]), alone)
    worker = ROOT / "tests" / "engine" / "distributed_worker.py"
    done = run_python(worker, folder / "pair.yaml", folder / "pair_cqe.yaml", folder, num_processes=2)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.ddp
@pytest.mark.slow
def test_gathered_rows_are_in_rank_order_and_means_and_maxima_are_over_ranks(ranks: list[dict]) -> None:
    expected = torch.tensor([[0.0] * 3] * 2 + [[1.0] * 3] * 2)
    for rank in ranks:
        torch.testing.assert_close(rank["gathered"], expected, rtol=0, atol=0)
        torch.testing.assert_close(rank["mean"], torch.tensor([0.5, 4.0]), rtol=0, atol=0)
        assert rank["largest"] == [1.0, 0.0, 1.0]


@pytest.mark.ddp
@pytest.mark.slow
def test_results_of_all_ranks_reach_rank_0_in_order_and_its_values_reach_all(ranks: list[dict]) -> None:
    assert ranks[0]["results"] == [0, 1, 4, 9, 16] and ranks[1]["results"] == []
    for rank in ranks:
        torch.testing.assert_close(rank["copied"], torch.full((2,), 3.0), rtol=0, atol=0)


@pytest.mark.ddp
@pytest.mark.slow
def test_a_validation_that_two_processes_share_has_the_scores_of_one_to_the_last_digit(
    folder: Path, ranks: list[dict], tmp_path: Path
) -> None:
    alone = validation_scores(folder / "alone.yaml", tmp_path / "log", Process(0, 1, torch.device("cpu")))
    assert ranks[0]["validation"] == alone and ranks[1]["validation"] == {}
    assert 5 < alone["psnr"] < 40
    pictures = [
        sorted(path.name for path in log.glob("pictures/*")) for log in (tmp_path / "log", folder / "validation0")
    ]
    assert pictures[0] == pictures[1]


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_train_the_restorer_as_one_does(folder: Path, ranks: list[dict]) -> None:
    alone, pair = (read_newest(folder / name, stage="restorer")[1] for name in ("alone", "pair"))
    # Gradients are summed in another order in float32, and Adam divides by their size: 1e-6 is a thousandth of a step.
    for part in ("module", "average"):
        torch.testing.assert_close(pair[part], alone[part], rtol=0, atol=1e-6)
    for rank in ranks:
        torch.testing.assert_close(dict(rank["restorer"]), dict(pair["module"]), rtol=0, atol=0)
    assert losses(folder / "pair") == pytest.approx(losses(folder / "alone"), rel=2e-4)  # four digits are logged
    assert len(losses(folder / "pair")) == NUM_STEPS


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_with_synced_statistics_train_the_encoder_as_one_does(folder: Path, ranks: list[dict]) -> None:
    alone, pair = (read_newest(folder / f"{name}_cqe", stage="cqe")[1] for name in ("alone", "pair"))
    # Float32, as for the restorer: 1e-6 is a hundredth of a step here. Sums over many pixels lose a digit more. On a
    # CPU with AVX-512 one weight of 9,216 was 7e-6 apart, the others of its layer within 2e-8: one may be an outlier.
    assert pair["average"]["num_updates"] == alone["average"]["num_updates"]
    averages = pair["average"]["module"], alone["average"]["module"]
    for found, expected in ((pair["module"], alone["module"]), averages):
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            difference = (found[name].double() - tensor.double()).abs()
            rounding = 1e-6 + 1e-5 * tensor.double().abs()
            assert (difference > rounding).sum() <= 1 and (difference <= 20 * rounding).all(), name
    assert losses(folder / "pair_cqe") == pytest.approx(
        losses(folder / "alone_cqe"), rel=1e-3
    )  # four digits are logged
    for rank in ranks:
        torch.testing.assert_close(dict(rank["encoder"]), dict(pair["module"]), rtol=0, atol=0)  # statistics too


@pytest.mark.ddp
@pytest.mark.slow
def test_dealt_rows_find_their_way_back(ranks: list[dict]) -> None:
    for number, rank in enumerate(ranks):
        torch.testing.assert_close(rank["dealt_back"], torch.arange(8.0), rtol=0, atol=0)
        torch.testing.assert_close(rank["dealt_own"], torch.arange(4.0) + 4 * number, rtol=0, atol=0)
    dealt = torch.cat([rank["dealt"] for rank in ranks])
    assert sorted(dealt.tolist()) == list(range(8)) and dealt.tolist() != list(range(8))


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("mode", EQUAL_QUALITIES)
def test_two_processes_contrast_as_one_does(ranks: list[dict], mode: str) -> None:
    alone = contrast_steps(mode, Process(0, 1, torch.device("cpu")))
    assert alone["losses"].isfinite().all() and alone["gradients"].any()
    for rank in ranks:
        # Sums over the batch are taken in another order in float32; a loss is about 2, a gradient of it likewise.
        torch.testing.assert_close(rank["contrast"][mode], alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ranks[0]["contrast"], ranks[1]["contrast"], rtol=0, atol=0)


@pytest.mark.ddp
@pytest.mark.slow
def test_both_processes_keep_the_queue_of_all_keys_in_rank_order(ranks: list[dict]) -> None:
    for kept, seen in (("queue", "keys"), ("queue_quality", "qualities")):
        queue = ranks[0][kept]
        torch.testing.assert_close(ranks[1][kept], queue, rtol=0, atol=0)
        rows = torch.cat([rank[seen] for rank in ranks], dim=1)  # (steps, 2 ranks * 2 images * 2 qualities[, D])
        assert rows.shape[:2] == (NUM_STEPS, 8) and len(queue) == 16
        # The queue holds two batches: after five steps the last is in its first half and the one before in its second.
        torch.testing.assert_close(queue, torch.cat([rows[4], rows[3]]), rtol=0, atol=0)
        assert not torch.equal(ranks[0][seen], ranks[1][seen])


@pytest.mark.ddp
@pytest.mark.slow
def test_both_processes_keep_the_same_encoders(ranks: list[dict]) -> None:
    for part in ("query_encoder", "key_encoder"):
        torch.testing.assert_close(ranks[1][part], ranks[0][part], rtol=0, atol=0)


@pytest.mark.ddp
@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step_and_none_before_the_run_is_saved(
    folder: Path, ranks: list[dict]
) -> None:
    assert [rank["stopped"] for rank in ranks] == [{"status": 128 + signal.SIGTERM, "is_saved": True}] * 2
    assert read_newest(folder / "stopped", stage="restorer")[1]["progress"]["step"] == 3


def losses(run_dir: Path) -> list[float]:
    """The total loss of each logged step; over two processes, their mean."""
    return [float(total) for total in re.findall(r"step \d+: total ([\d.]+)", (run_dir / "log.txt").read_text())]


def test_what_the_main_process_reads_needs_no_group() -> None:
    assert from_main(lambda: 3) == 3
    with pytest.raises(FileNotFoundError, match="no such run"):
        from_main(missing_run)


def missing_run() -> None:
    raise FileNotFoundError("no such run")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    message = r"process 2 of this machine has no GPU, torch sees 2 .*: start torchrun with --nproc_per_node=2, or train"
    with pytest.raises(ValueError, match=message), process_group("cuda"):
        pass
