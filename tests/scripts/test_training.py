"""Both training scripts, end to end, on small images: what they learn, how they go on, and what they refuse."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import engine.script
import restoration.objective
import train_cqe
import train_restorer
from cqe.encoder import QualityEncoder
from cqe.quality import QualityProbe
from cqe.weights import load_encoder, save_encoder
from data.splits import bsds500_stems
from engine.checkpoint import save_checkpoint
from engine.config import TrainerConfig
from engine.run_folder import read_newest
from restoration.config import RestorerConfig, ValidationConfig
from restoration.networks import NetworkConfig
from restoration.networks.rdn import RDN
from restoration.weights import load_restorer, open_weights, store_half
from tests.places import ROOT
from tests.synthetic import cqe_settings, make_data_root, picture, restorer_settings, write_config, write_pictures

SCRIPTS = {"cqe": train_cqe, "restorer": train_restorer}
WEIGHTS = {"cqe": "encoder.safetensors", "restorer": "restorer.safetensors"}

# What stage 1 can be beside the printed recipe, which the other tests train.
RECIPES = {
    "labels": {"objective": "labels"},
    "positives": {
        "pairs": {"qualities_per_image": 2, "double_share": 0.3, "resized_share": 0.3},
        "moco": {"queue_length": 16, "momentum": 0.9, "temperature": 0.2, "equal_qualities": "positives"},
    },
}

# Losses of the first three steps of `cqe_settings` and `restorer_settings`, seed 0, float32. Without oneDNN, and with
# activations in either layout, all their digits are the same.
SMOKE_LOSSES = {"cqe": [0.09451, 1.602, 2.125], "restorer": [0.06403, 0.07213, 0.05718]}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_root(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder whose BatchNorm statistics are not the initial ones."""
    torch.manual_seed(0)
    encoder = QualityEncoder(1, width=8, remove_local_mean=True)
    encoder(torch.rand(8, 1, 32, 32))
    save_encoder(encoder, tmp_path_factory.mktemp("encoder") / "encoder.safetensors")
    return tmp_path_factory.getbasetemp() / "encoder0" / "encoder.safetensors"


@pytest.fixture
def settings(images: Path, encoder_file: Path, tmp_path: Path) -> Callable[..., dict]:
    """`settings(stage, **trainer)`: a configuration that trains in a moment into `tmp_path / "run"`."""

    def make(stage: str, *, run: str = "run", **trainer) -> dict:
        if stage == "cqe":
            return cqe_settings(images, tmp_path / run, **trainer)
        return restorer_settings(images, tmp_path / run, encoder_file, **trainer)

    return make


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable:
    """`script(stage, settings, *arguments)`: run a script's main(); its exit status and its lines on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(stage: str, settings: dict, *arguments: str) -> tuple[int, list[str]]:
        config = write_config(tmp_path / "config.yaml", settings)
        monkeypatch.setattr(sys, "argv", [f"train_{stage}.py", "--config", str(config), *arguments])
        capsys.readouterr()
        try:
            SCRIPTS[stage].main()
            status = 0
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr().err.splitlines()

    return run


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SIGTERM reach the next training when it asks for the batch of this step."""
    build_loader = engine.script.build_loader

    def build(dataset, first_step: int, last_step: int, **options):
        for index, batch in enumerate(build_loader(dataset, first_step, last_step, **options), start=first_step):
            if index == step:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    monkeypatch.setattr(engine.script, "build_loader", build)


def logged_losses(run_dir: Path) -> dict[int, str]:
    """The loss terms and rate of each step, as log.txt has them; of a step done twice, the later."""
    lines = re.findall(r"step (\d+): (total .*?)  images_per_second", (run_dir / "log.txt").read_text())
    return {int(step): terms for step, terms in lines}


def tensors(run_dir: Path, stage: str) -> dict:
    """What a checkpoint holds apart from times and paths, of which nothing that is trained depends."""
    state = read_newest(run_dir, stage=stage)[1]
    return {name: state[name] for name in ("module", "optimizer", "average")} | {
        "progress": (state["progress"]["step"], state["progress"]["best"])
    }


@pytest.mark.parametrize("stage", ["cqe", "restorer"])
def test_a_stopped_and_resumed_training_equals_an_uninterrupted_one(
    stage: str, settings: Callable, script: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert script(stage, settings(stage, run="whole"))[0] == 0
    with monkeypatch.context() as context:
        stop_at(3, context)
        assert script(stage, settings(stage, run="parts"))[0] == 143
    stopped = read_newest(tmp_path / "parts", stage=stage)[1]
    assert stopped["progress"]["step"] == 3
    assert script(stage, settings(stage, run="parts"), "--resume")[0] == 0
    parts, whole = tensors(tmp_path / "parts", stage), tensors(tmp_path / "whole", stage)
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)  # weights, queue, optimizer, average
    assert "module.queue" not in parts and (stage != "cqe" or "queue" in parts["module"])
    assert logged_losses(tmp_path / "parts") == logged_losses(tmp_path / "whole")
    assert sorted(logged_losses(tmp_path / "whole")) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("stage", "optimizer", "num_workers"),
    [
        ("cqe", "adam", 4),
        ("cqe", "adamw", 1),
        ("cqe", "muon", 0),
        ("restorer", "adam", 1),
        ("restorer", "adamw", 0),
        ("restorer", "muon", 4),
        ("restorer", "soap", 0),
        ("restorer", "schedule_free", 0),
    ],
)
def test_resuming_is_exact_for_every_optimizer_and_number_of_workers(
    stage: str,
    optimizer: str,
    num_workers: int,
    settings: Callable,
    script: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def given(run: str) -> dict:
        made = settings(stage, run=run, max_steps=4)
        made["optim"] |= {"name": optimizer, "weight_decay": 0.0 if optimizer == "adam" else 0.1}
        if stage == "cqe":
            made["optim"]["adam_layers"] = ["conv1"]
        if optimizer == "schedule_free":
            made["optim"] |= {"schedule": "constant", "ema_decay": None}
        made["data"]["num_workers"] = num_workers
        return made

    whole = given("whole")
    whole["data"]["num_workers"] = 0  # how a batch is loaded must not matter
    assert script(stage, whole)[0] == 0
    with monkeypatch.context() as context:
        stop_at(2, context)
        assert script(stage, given("parts"))[0] == 143
    assert script(stage, given("parts"), "--resume", "auto")[0] == 0
    torch.testing.assert_close(tensors(tmp_path / "parts", stage), tensors(tmp_path / "whole", stage), rtol=0, atol=0)
    assert logged_losses(tmp_path / "parts") == logged_losses(tmp_path / "whole")


def test_a_run_goes_on_without_the_files_that_it_began_with(
    settings: Callable, script: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder's file, with its probe, for stage 2; trained weights for both stages."""
    encoder = tmp_path / "guide.safetensors"
    save_encoder(QualityEncoder(1, width=8, remove_local_mean=True), encoder, QualityProbe(32))
    whole = script("restorer", settings("restorer", run="whole") | {"encoder": str(encoder)})
    assert whole[0] == 0, whole
    trained = tmp_path / "whole" / "restorer.safetensors"
    begun = [
        ("restorer", settings("restorer", run="parts") | {"encoder": str(encoder)}),
        ("restorer", settings("restorer", run="warm") | {"encoder": "", "initial_weights": str(trained)}),
        ("cqe", settings("cqe", run="cqe") | {"initial_weights": str(encoder)}),
    ]
    with monkeypatch.context() as context:
        stop_at(3, context)
        assert [script(stage, given)[0] for stage, given in begun] == [143, 143, 143]
    encoder.unlink()
    trained = trained.rename(tmp_path / "whole.safetensors")
    assert [script(stage, given, "--resume", "--dry-run")[0] for stage, given in begun] == [0, 0, 0]
    assert [script(stage, given, "--resume")[0] for stage, given in begun] == [0, 0, 0]
    parts = tmp_path / "parts" / "restorer.safetensors"
    assert trained.read_bytes() == parts.read_bytes()  # weights, encoder and probe
    assert open_weights(parts).probe is not None


def test_a_checkpoint_from_before_it_held_the_encoder_goes_on_with_the_file(
    settings: Callable, script: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert script("restorer", settings("restorer", run="first", max_steps=1))[0] == 0
    given = settings("restorer", max_steps=2) | {
        "encoder": "",  # it comes with the trained weights
        "initial_weights": str(tmp_path / "first" / "restorer.safetensors"),
    }
    with monkeypatch.context() as context:
        stop_at(1, context)
        assert script("restorer", given)[0] == 143
    path, state = read_newest(tmp_path / "run", stage="restorer")
    del state["context"], state["device"], state["images"]
    path.unlink()
    save_checkpoint(tmp_path / "run" / "checkpoint.pt", state)
    assert script("restorer", given, "--resume")[0] == 0
    assert read_newest(tmp_path / "run", stage="restorer")[1]["context"]["encoder"]["remove_local_mean"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_of_stage_1_publishes_its_encoder_and_resumes_exactly(
    recipe: str, settings: Callable, script: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = (settings("cqe", run=run, max_steps=3) | RECIPES[recipe] for run in ("whole", "parts"))
    assert script("cqe", whole)[0] == 0
    with monkeypatch.context() as context:
        stop_at(2, context)
        assert script("cqe", parts)[0] == 143
    assert script("cqe", parts, "--resume")[0] == 0
    state = tensors(tmp_path / "whole", "cqe")
    torch.testing.assert_close(tensors(tmp_path / "parts", "cqe"), state, rtol=0, atol=0)
    losses = logged_losses(tmp_path / "whole")
    assert logged_losses(tmp_path / "parts") == losses and sorted(losses) == [1, 2, 3]
    if recipe == "labels":
        assert all("label_accuracy" in terms for terms in losses.values()) and state["module"]["head.weight"].any()
    else:
        assert set(state["module"]["queue_quality"].tolist()) <= {10, 20, 30, 40}
        assert state["module"]["queue_position"] == 8  # of 16, three steps of four images at two qualities
        printed = settings("cqe", run="printed", max_steps=1) | RECIPES[recipe]
        assert script("cqe", printed, "--moco.equal_qualities", "negatives")[0] == 0
        assert logged_losses(tmp_path / "printed")[1] != losses[1]
    published = load_encoder(tmp_path / "whole" / WEIGHTS["cqe"], channels=1)  # which refuses tensors of no encoder
    torch.testing.assert_close(dict(published.state_dict()), state["average"]["module"], rtol=0, atol=0)


@pytest.mark.parametrize("stage", ["cqe", "restorer"])
def test_first_losses_are_the_stored_ones_and_the_average_is_published(
    stage: str, settings: Callable, script: Callable, tmp_path: Path
) -> None:
    status, _ = script(stage, settings(stage, max_steps=3))
    assert status == 0
    losses = [float(terms.split()[1]) for terms in logged_losses(tmp_path / "run").values()]
    # Four digits are logged; the rest of the 1 % is for other CPUs, versions of torch and JPEG libraries.
    assert losses == pytest.approx(SMOKE_LOSSES[stage], rel=0.01)
    state = read_newest(tmp_path / "run", stage=stage)[1]
    weights = tmp_path / "run" / WEIGHTS[stage]
    published = load_encoder(weights, channels=1) if stage == "cqe" else load_restorer(weights)
    torch.testing.assert_close(dict(published.state_dict()), state["average"]["module"], rtol=0, atol=0)
    trained = {"cqe": "query_encoder.", "restorer": "restorer."}[stage]
    assert any((state["module"][trained + name] != value).any() for name, value in published.state_dict().items())


def test_the_frozen_encoder_is_the_same_after_training(
    settings: Callable, script: Callable, encoder_file: Path, tmp_path: Path
) -> None:
    assert script("restorer", settings("restorer", max_steps=3))[0] == 0
    before = load_encoder(encoder_file, channels=1).state_dict()
    assert before["bn1.running_mean"].any()
    state = read_newest(tmp_path / "run", stage="restorer")[1]
    for owner, prefix in ((state["module"], "restorer."), (state["average"]["module"], "")):
        after = {name: owner[f"{prefix}encoder.network.{name}"] for name in before}
        torch.testing.assert_close(after, dict(before), rtol=0, atol=0)


@pytest.mark.parametrize("stage", ["cqe", "restorer"])
def test_every_trainable_parameter_moves_and_frozen_ones_do_not(
    stage: str, settings: Callable, script: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {}
    train_on = SCRIPTS[stage].train_on

    def watched(stage_object, *arguments, **options):
        kept["module"] = stage_object.module
        kept["before"] = {name: value.detach().clone() for name, value in stage_object.module.named_parameters()}
        return train_on(stage_object, *arguments, **options)

    monkeypatch.setattr(SCRIPTS[stage], "train_on", watched)
    assert script(stage, settings(stage, max_steps=3))[0] == 0
    num_frozen = 0
    for name, parameter in kept["module"].named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
            assert (parameter != kept["before"][name]).any(), name
        else:
            num_frozen += 1
            assert parameter.grad is None, name
            # The key encoder follows the queries' without a gradient; the frozen encoder never moves.
            assert stage == "cqe" or (parameter == kept["before"][name]).all(), name
    assert num_frozen > 0


def test_an_encoder_that_is_not_trained_first_starts_anew_and_is_trained_too(
    settings: Callable, script: Callable, encoder_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = load_encoder(encoder_file)
    whole, parts = (settings("restorer", run=run, max_steps=3) | {"train_encoder": True} for run in ("whole", "parts"))
    assert script("restorer", whole)[0] == 0
    opened = open_weights(tmp_path / "whole" / WEIGHTS["restorer"])
    assert opened.probe is None
    for name, tensor in opened.encoder.state_dict().items():
        assert (tensor != given.state_dict()[name]).any(), name
    with monkeypatch.context() as context:
        stop_at(2, context)
        assert script("restorer", parts)[0] == 143
    assert script("restorer", parts, "--resume")[0] == 0
    torch.testing.assert_close(
        tensors(tmp_path / "parts", "restorer"), tensors(tmp_path / "whole", "restorer"), rtol=0, atol=0
    )
    status, lines = script("restorer", whole, "--initial_weights", "fast_tiny_gray", "--trainer.run_dir", "other")
    assert (status, len(lines)) == (2, 1) and "train_encoder starts with an untrained encoder" in lines[0]


def test_a_loss_that_is_not_finite_ends_with_status_2_and_unharmed_weights(
    settings: Callable, script: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    loss = restoration.objective.reconstruction_loss

    def spoiled(restored: Tensor, clean: Tensor, **options) -> dict[str, Tensor]:
        calls.append(restored)
        terms = loss(restored, clean, **options)
        return (
            terms if len(calls) < 4 else terms | {"total": terms["total"] * torch.nan, "fft": terms["fft"] * torch.nan}
        )

    monkeypatch.setattr(restoration.objective, "reconstruction_loss", spoiled)
    status, lines = script("restorer", settings("restorer"))
    assert status == 2
    assert re.search(r"train_restorer\.py: error: (total|fft) is nan at step 3: stopped before the update", lines[-1])
    # Step 3 is the second of epoch 1: two steps of four images are an epoch.
    order = np.random.default_rng([0, 1]).permutation(8)[4:]
    names = [f"train/{sorted(bsds500_stems('train'))[index]}.png" for index in order]
    assert lines[-1].endswith(f"; images of this step: {', '.join(names)}")
    state = read_newest(tmp_path / "run", stage="restorer")[1]
    assert state["progress"]["step"] == 2
    assert all(value.isfinite().all() for value in state["module"].values())


def test_training_goes_on_from_trained_weights(settings: Callable, script: Callable, tmp_path: Path) -> None:
    assert script("restorer", settings("restorer", run="first", max_steps=3))[0] == 0
    first = tmp_path / "first" / "restorer.safetensors"
    still = ["--optim.lr", "1e-20", "--initial_weights", str(first)]  # too small a rate to move a float32 weight
    assert script("restorer", settings("restorer", run="second", max_steps=1), *still)[0] == 0
    before, after = (load_restorer(tmp_path / run / "restorer.safetensors").state_dict() for run in ("first", "second"))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-12)


def test_an_encoder_that_trained_weights_replace_is_named(
    settings: Callable, script: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert script("restorer", settings("restorer", run="first", max_steps=1))[0] == 0
    half, other = tmp_path / "half.safetensors", tmp_path / "other.safetensors"
    store_half(tmp_path / "first" / "restorer.safetensors", half)  # its encoder is the config's, rounded
    save_encoder(QualityEncoder(1, width=8, remove_local_mean=True), other)
    for options, is_named in (([], False), (["--encoder", str(other)], True)):
        caplog.clear()
        given = settings("restorer", run="second", dry_run=True)
        assert script("restorer", given, "--initial_weights", str(half), *options)[0] == 0
        warned = f"{half} brings its own encoder, and encoder {other} is not used" in caplog.text
        assert warned == is_named, caplog.text


def test_a_probe_is_published_with_its_own_encoder_only(tmp_path: Path) -> None:
    path = tmp_path / "restorer.safetensors"
    config = RestorerConfig(encoder="", trainer=TrainerConfig(run_dir="run"), network=NetworkConfig("fast"))
    stage = train_restorer.RestorerStage(config, QualityEncoder(1, width=8), QualityProbe(32), [])
    stage.publish(stage.kept, path)
    assert open_weights(path).probe is not None
    # A resumed run takes the checkpoint's encoder, whatever the encoder's file holds by now.
    stage.kept.load_state_dict({name: tensor + 1 for name, tensor in stage.kept.state_dict().items()})
    stage.publish(stage.kept, path)
    assert open_weights(path).probe is None


def test_a_large_validation_image_is_restored_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Watched(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(max(x.shape[-2:]))
            return (x * 0.9 + 0.02).clamp(0, 1)

    class Log:
        def picture(self, *arguments: object) -> None: ...

    validation = ValidationConfig(qualities=[10])
    config = RestorerConfig(
        TrainerConfig(run_dir="run"), encoder="", network=NetworkConfig("fast"), validation=validation
    )
    stage = train_restorer.RestorerStage(config, QualityEncoder(1, width=8), None, [picture(40, 900)[:, :, 0]])
    network = Watched()
    network.register_parameter("unused", torch.nn.Parameter(torch.zeros(1)))
    in_tiles = stage.validate(network, Log(), 1)
    assert len(sizes) > 1 and max(sizes) <= 768
    monkeypatch.setattr(train_restorer, "TILE_PX", 1000)
    sizes.clear()
    assert stage.validate(network, Log(), 1) == in_tiles and sizes == [900]  # this network looks at each pixel alone
    # A network that changes little is measured too, at any size: the limits for fine images play no part.
    stage.kept.restored = lambda padded: padded + 0.6 / 255
    whole = stage.validate(stage.kept, Log(), 1)
    monkeypatch.setattr(train_restorer, "TILE_PX", 768)
    assert stage.validate(stage.kept, Log(), 1) == whole


def test_an_encoder_goes_on_from_trained_weights_in_both_of_its_roles(
    settings: Callable, script: Callable, encoder_file: Path, tmp_path: Path
) -> None:
    still = ["--optim.lr", "1e-20", "--initial_weights", str(encoder_file)]
    assert script("cqe", settings("cqe", max_steps=1), *still)[0] == 0
    after = read_newest(tmp_path / "run", stage="cqe")[1]["module"]
    for name, before in load_encoder(encoder_file, channels=1).named_parameters():
        for role in ("query_encoder", "key_encoder"):
            torch.testing.assert_close(after[f"{role}.{name}"], before.detach(), rtol=0, atol=1e-12)


def test_colour_trains_too(settings: Callable, script: Callable, tmp_path: Path) -> None:
    for stage in ("cqe", "restorer"):
        changed = settings(stage, run=stage, max_steps=2)
        changed["data"] = changed["data"] | {"channels": 3}
        if stage == "restorer":
            changed["encoder"] = str(tmp_path / "cqe" / "encoder.safetensors")
        assert script(stage, changed)[0] == 0
    assert load_restorer(tmp_path / "restorer" / "restorer.safetensors").channels == 3


def test_the_shipped_tiny_recipe_passes_its_smoke_run(script: Callable, tmp_path: Path) -> None:
    root = make_data_root(tmp_path / "data", num_train=4, size=64)
    placed = {"data": {"root": str(root), "pack_dir": str(tmp_path / "packed")}, "trainer": {"device": "cpu"}}
    encoder = tmp_path / "cqe" / "encoder.safetensors"
    for stage, name, options in (("cqe", "tiny_gray", []), ("restorer", "fast_tiny_gray", [f"--encoder={encoder}"])):
        files = [f"--config={ROOT / 'configs' / stage / f'{config}.yaml'}" for config in (name, "smoke")]
        status, lines = script(stage, placed, *files, *options, f"--trainer.run_dir={tmp_path / stage}")
        assert status == 0, lines
    assert load_restorer(tmp_path / "restorer" / "restorer.safetensors").channels == 1


@pytest.mark.parametrize("stage", ["cqe", "restorer"])
def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    stage: str, settings: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    changed = settings(stage)
    changed["data"]["pack_dir"] = str(tmp_path / "packed")
    config = write_config(tmp_path / "config.yaml", changed)
    monkeypatch.setattr(sys, "argv", ["train", "--config", str(config), "--dry-run"])
    SCRIPTS[stage].main()
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["steps"] == "6, which is 3.0 epochs" and lines["images"].startswith("8; an epoch has 2 steps of 4")
    assert " M trained" in lines["parameters"] and "32x32 pixels" in lines["arithmetic"]
    num_patches = {"cqe": 2, "restorer": 1}[stage]
    assert lines["pixels"].startswith(f"{4 * num_patches * 32 * 32 / 1e6:.3g} million in a step")
    assert lines["0%"].split()[0] == {"cqe": "1.00e-03", "restorer": "5.00e-04"}[stage]  # the latter warms up
    assert lines["100%"].split()[0] == "0.00e+00"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "config.yaml"]


@pytest.mark.parametrize("stage", ["cqe", "restorer"])
def test_the_blank_batch_of_a_dry_run_is_like_one_of_the_loader(
    stage: str, settings: Callable, script: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    train_on = SCRIPTS[stage].train_on

    def watched(stage_object, dataset, **options):
        seen["blank"] = stage_object.blank_batch(4)
        seen["loaded"] = next(iter(engine.script.build_loader(dataset, 0, 1, batch_size=4)))
        return train_on(stage_object, dataset, **options)

    monkeypatch.setattr(SCRIPTS[stage], "train_on", watched)
    assert script(stage, settings(stage, max_steps=1))[0] == 0
    shapes = {name: (value.shape, value.dtype) for name, value in seen["blank"].items()}
    loaded = {name: (value.shape, value.dtype) for name, value in seen["loaded"].items()}
    assert shapes.items() <= loaded.items() and loaded.keys() - shapes <= {"quality"}


@pytest.mark.parametrize("stage", ["cqe", "restorer"])
@pytest.mark.parametrize(
    ("section", "key", "value", "complaint"),
    [
        ("data", "train", ["bsds500/train", "bsds500/val"], r"\d+\.png belongs to the BSDS500 val split, not to train"),
        ("data", "val", "bsds500/train", r"\d+\.png belongs to the BSDS500 train split, not to val"),
        ("trainer", "resume", True, r"nothing to resume: no checkpoint in \S+run;"),
    ],
)
def test_a_mistake_ends_with_status_2_and_one_line(
    stage: str,
    section: str,
    key: str,
    value: object,
    complaint: str,
    settings: Callable,
    script: Callable,
    tmp_path: Path,
) -> None:
    changed = settings(stage)
    changed[section][key] = value
    assert_refused(script(stage, changed), stage, complaint)
    assert not (tmp_path / "run").exists()


def test_initial_weights_of_another_input_are_refused(settings: Callable, script: Callable, tmp_path: Path) -> None:
    config = settings("cqe", max_steps=1)
    width = config["encoder"]["width"]
    other = not config["encoder"].get("remove_local_mean", False)
    save_encoder(QualityEncoder(1, width=width, remove_local_mean=other), tmp_path / "other.safetensors")
    refused = script("cqe", config, "--initial_weights", str(tmp_path / "other.safetensors"))
    assert_refused(refused, "cqe", rf"other\.safetensors has remove_local_mean {other}, but the config has {not other}")


@pytest.mark.parametrize(
    ("stage", "option", "before", "now"),
    [
        ("cqe", "encoder.remove_local_mean", "True", "false"),  # which no tensor's shape shows
        ("cqe", "trainer.micro_batches", "1", "2"),  # BatchNorm would see smaller parts
        ("restorer", "data.qualities", r"\[.*\]", "[35]"),
    ],
)
def test_a_run_goes_on_only_with_its_own_recipe(
    stage: str, option: str, before: str, now: str, settings: Callable, script: Callable, tmp_path: Path
) -> None:
    assert script(stage, settings(stage, max_steps=1))[0] == 0
    stated = (tmp_path / "run" / "config.yaml").read_text()
    refused = script(stage, settings(stage), "--resume", f"--{option}", now)
    complaint = rf"checkpoint_\d+\.pt was trained with {re.escape(option)} {before}, now it is (?i:{re.escape(now)})"
    assert_refused(refused, stage, complaint)
    assert (tmp_path / "run" / "config.yaml").read_text() == stated
    assert script(stage, settings(stage, max_steps=2, log_every_steps=2), "--resume")[0] == 0  # only longer


def test_stage_2_may_go_on_in_other_parts(settings: Callable, script: Callable) -> None:
    assert script("restorer", settings("restorer", max_steps=1))[0] == 0
    # The encoder's BatchNorm is frozen, so nothing depends on the parts.
    assert script("restorer", settings("restorer", max_steps=2), "--resume", "--trainer.micro_batches", "2")[0] == 0


def test_a_validation_image_that_cannot_be_measured_is_named_at_once(
    settings: Callable, script: Callable, images: Path, tmp_path: Path
) -> None:
    write_pictures(tmp_path / "small", ["tiny"], size=8)
    changed = settings("restorer")
    changed["data"]["val"] = str(tmp_path / "small")
    assert_refused(script("restorer", changed), "restorer", r"tiny\.png is 8x8 pixels; metrics need sides of at least")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("arcnn", {"widths": [4, 4, 4]}),
        ("dncnn", {"depth": 3, "width": 4}),
        ("rnan", {"width": 4, "groups": 2}),
        ("rdn", {"width": 4, "growth": 4, "blocks": 1, "layers": 1}),
        ("unet", {"widths": [4, 6], "blocks": 1}),
    ],
)
def test_a_network_without_an_encoder_is_trained_and_goes_on_from_its_weights(
    name: str, options: dict, settings: Callable, script: Callable, tmp_path: Path
) -> None:
    changed = settings("restorer", max_steps=2) | {"network": {"name": name, name: options}}
    changed["validation"]["crop_size_px"] = 24
    del changed["encoder"]
    assert script("restorer", changed)[0] == 0
    first = tmp_path / "run" / "restorer.safetensors"
    network = load_restorer(first)
    assert network.encoder is None and not any("encoder" in key for key in network.state_dict())
    still = ["--optim.lr=1e-20", f"--initial_weights={first}", f"--trainer.run_dir={tmp_path / 'on'}"]
    assert script("restorer", changed, *still)[0] == 0
    on = load_restorer(tmp_path / "on" / "restorer.safetensors").state_dict()
    torch.testing.assert_close(on, network.state_dict(), rtol=0, atol=1e-12)


def test_training_goes_on_from_another_systems_file(settings: Callable, script: Callable, tmp_path: Path) -> None:
    published = RDN(1, width=4, growth=4, blocks=1, layers=1).state_dict()
    torch.save(published, tmp_path / "published.pt")
    options = {"width": 4, "growth": 4, "blocks": 1, "layers": 1}
    changed = settings("restorer", max_steps=1) | {"network": {"name": "rdn", "rdn": options}}
    still = ["--optim.lr=1e-20", f"--initial_weights={tmp_path / 'published.pt'}"]
    assert script("restorer", changed, *still)[0] == 0
    network = load_restorer(tmp_path / "run" / "restorer.safetensors")
    torch.testing.assert_close(dict(network.state_dict()), dict(published), rtol=0, atol=1e-12)
    assert not network.as_published


def test_an_encoder_is_asked_for_or_refused_by_what_the_network_takes(settings: Callable, script: Callable) -> None:
    changed = settings("restorer")
    del changed["encoder"]
    assert_refused(script("restorer", changed), "restorer", "encoder is required: the network 'fast' is built around")
    given = ["--network.name=dncnn", "--train_encoder=true"]
    assert_refused(script("restorer", changed, *given), "restorer", "the network 'dncnn' takes no encoder")


def test_the_guide_may_be_a_published_encoder_or_a_restorers_own(
    settings: Callable, script: Callable, tmp_path: Path
) -> None:
    for name in ("cqe_gray", "fast_tiny_gray"):
        done = script(
            "restorer", settings("restorer", max_steps=1), "--encoder", name, f"--trainer.run_dir={tmp_path / name}"
        )
        assert done[0] == 0, done
    guides = [
        load_restorer(tmp_path / name / "restorer.safetensors").encoder for name in ("cqe_gray", "fast_tiny_gray")
    ]
    half, own = guides[1].network.conv1.weight, guides[0].network.conv1.weight
    torch.testing.assert_close(half, own.half().float(), rtol=0, atol=0)


def test_an_encoder_of_other_channels_is_refused(settings: Callable, script: Callable, encoder_file: Path) -> None:
    refused = script("restorer", settings("restorer"), "--data.channels=3")
    assert_refused(refused, "restorer", r"is an encoder for 1-channel images, but 3 channel\(s\) are needed")


@pytest.mark.ddp
@pytest.mark.slow
def test_in_a_process_of_its_own_a_signal_stops_and_saves_and_a_mistake_is_one_line(
    settings: Callable, tmp_path: Path
) -> None:
    endless = settings("restorer", max_steps=1_000_000, save_every_steps=1_000_000, validate_every_steps=1_000_000)
    endless["data"]["num_workers"] = 1  # the signal reaches the loader's worker too, which must not die of it
    config = write_config(tmp_path / "config.yaml", endless)
    command = [sys.executable, str(ROOT / "train_restorer.py"), "--config", str(config)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    options = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **options) as process:
        try:
            seen = next(line for line in process.stderr if "step 2:" in line)
            os.killpg(process.pid, signal.SIGTERM)
            rest = process.stderr.read()
            assert process.wait(timeout=60) == 143, seen + rest
        finally:
            process.kill()
    assert re.search(r"stopped by SIGTERM at step \d+, saved; the same command with --resume goes on", rest)
    assert read_newest(tmp_path / "run", stage="restorer")[1]["progress"]["step"] >= 2
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120)
    assert again.returncode == 2 and again.stdout == ""
    assert_refused((2, again.stderr.splitlines()), "restorer", "already holds a run")


def assert_refused(outcome: tuple[int, list[str]], stage: str, complaint: str) -> None:
    status, lines = outcome
    assert status == 2 and len(lines) == 1, (status, lines)
    assert re.match(rf"train_{stage}\.py: error: .*(?:{complaint})", lines[0]), lines[0]
