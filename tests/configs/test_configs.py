"""The configurations in configs/: they parse, their headers are true, and gray and colour differ where they may."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cqe.config import CqeConfig
from engine.config import parse_config, save_config, to_dict
from restoration.config import RestorerConfig
from tests.places import CONFIGS, ROOT

CLASSES = {"cqe": CqeConfig, "restorer": RestorerConfig, "ablation": RestorerConfig}
SCRIPTS = {"cqe": "train_cqe.py", "restorer": "train_restorer.py", "ablation": "train_restorer.py"}
OVERLAYS = {
    "smoke",
    "supervised",
    "design",
    "compared",
}  # to be laid over another config, as all of configs/ablation are
ALL = sorted(CONFIGS.glob("*/*.yaml"))
WHOLE = [path for path in ALL if path.stem not in OVERLAYS and path.parent.name != "ablation"]

# Keys in which the colour config of a pair differs from the gray one: (gray, colour); None where a file lacks the key.
DIFFERENCES = {
    "cqe/gray": {"data.full_range_share": (0.3, 0.0)},
    "cqe/paper_gray": {},
    "restorer/fast_gray": {
        "data.full_range_share": (0.3, 0.0),
        "encoder": ("weights/cqe_gray_muon.safetensors", "weights/cqe_color.safetensors"),
    },
    "restorer/fast_tiny_gray": {
        "data.full_range_share": (0.3, None),
        "encoder": ("weights/cqe_gray.safetensors", "weights/cqe_color.safetensors"),
        "initial_weights": (None, "fast_tiny_gray"),
        "data.aligned_share": (1.0, 0.97),
        "histories.clean_share": (None, 0.02),
        "histories.full_chroma_share": (None, 0.03),
        "histories.foreign_tables_share": (None, 0.04),
        "histories.double_share": (None, 0.03),
    },
    "restorer/fast_small_gray": {
        "data.full_range_share": (0.3, None),
        "encoder": ("weights/cqe_gray.safetensors", "weights/cqe_color.safetensors"),
        "histories.clean_share": (0.02, 0.03),
        "initial_weights": ("fast_tiny_gray", "fast_tiny_color"),
    },
    "restorer/paper_gray": {
        "encoder": ("runs/cqe_paper_gray/encoder.safetensors", "runs/cqe_paper_color/encoder.safetensors"),
    },
}
PAIRS = {name: (CONFIGS / f"{name}.yaml", CONFIGS / f"{name.replace('gray', 'color')}.yaml") for name in DIFFERENCES}

# Comments that are not the same once "gray" reads "color" and "luma" "RGB".
COMMENTS_OF_GRAY = {
    "photos come in JFIF's 0..255",
    'Stage 2 with the paper\'s settings (color): row "Ours" of Tables 1 and 4.',
}
COMMENTS_OF_COLOR = {'Stage 2 with the paper\'s settings (color): row "Ours" of Table 3.'}


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", WHOLE, ids=name_of)
@pytest.mark.parametrize("is_smoke", [False, True], ids=["full", "smoke"])
def test_a_config_parses_for_its_script_alone_and_as_a_smoke_run(path: Path, is_smoke: bool, tmp_path: Path) -> None:
    arguments = [f"--config={path}", *([f"--config={path.with_stem('smoke')}"] if is_smoke else [])]
    config = parse_config(CLASSES[path.parent.name], arguments)
    save_config(config, tmp_path / "resolved.yaml")
    assert parse_config(type(config), [f"--config={tmp_path / 'resolved.yaml'}"]) == config
    if is_smoke:
        assert config.trainer.max_steps <= 5 and "smoke" in config.trainer.run_dir


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_the_commands_of_a_header_run_this_config_and_have_options_that_exist(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    commands = list(commands_of(path))
    assert commands or path.stem == "quickstart"  # which `make quickstart` runs
    for script, arguments in commands:
        assert script == SCRIPTS[path.parent.name]
        assert f"configs/{path.parent.name}/{path.name}" in arguments
        parse_config(CLASSES[path.parent.name], arguments)


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_files_that_a_header_names_exist(path: Path) -> None:
    for name in re.findall(r"\b(?:configs|weights)/[\w/]+\.\w+", header_of(path)):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("name", PAIRS)
def test_a_gray_and_a_color_config_differ_only_where_they_may(name: str) -> None:
    gray, color = (dict(flat(yaml.safe_load(path.read_text()))) for path in PAIRS[name])
    found = {key: (gray.get(key), color.get(key)) for key in gray | color if gray.get(key) != color.get(key)}
    run_dirs = gray["trainer.run_dir"], gray["trainer.run_dir"].replace("gray", "color")
    assert found == {"data.channels": (1, 3), "trainer.run_dir": run_dirs} | DIFFERENCES[name]


@pytest.mark.parametrize(
    "name", [name for name in PAIRS if name not in ("restorer/fast_small_gray", "restorer/fast_tiny_gray")]
)  # each has its own story
def test_the_comments_of_a_gray_and_a_color_config_are_the_same(name: str) -> None:
    gray, color = (re.findall(r"# *(.*)", path.read_text()) for path in PAIRS[name])
    gray = [comment.replace("gray", "color").replace("luma", "RGB") for comment in gray]
    assert [comment for comment in gray if comment not in COMMENTS_OF_GRAY] == [
        comment for comment in color if comment not in COMMENTS_OF_COLOR
    ]


@pytest.mark.parametrize("path", [path for path in WHOLE if path.parent.name == "cqe"], ids=name_of)
def test_the_supervised_overlay_changes_the_objective_alone(path: Path) -> None:
    overlay = path.with_stem("supervised")
    labels = to_dict(parse_config(CqeConfig, [f"--config={path}", f"--config={overlay}"]))
    contrast = to_dict(parse_config(CqeConfig, [f"--config={path}"]))
    assert (labels.pop("objective"), contrast.pop("objective")) == ("labels", "contrast")
    assert labels["trainer"].pop("run_dir") != contrast["trainer"].pop("run_dir")
    assert labels == contrast


def test_the_design_overlay_keeps_the_loss_and_the_optimiser_that_its_table_was_measured_with() -> None:
    tiny, overlay = (f"--config={CONFIGS / 'restorer' / name}.yaml" for name in ("fast_tiny_gray", "design"))
    design, alone = parse_config(RestorerConfig, [tiny, overlay]), parse_config(RestorerConfig, [tiny])
    assert (design.trainer.max_steps, design.data.patch_size_px) == (1000, 64)
    assert design.loss == alone.loss and not design.initial_weights
    assert (design.optim.name, design.optim.lr) == ("adam", 1e-3)


def header_of(path: Path) -> str:
    """The comment lines of a file, without their marks; lines that end with a backslash are joined."""
    lines = [line.removeprefix("#").strip() for line in path.read_text().splitlines() if line.startswith("#")]
    return re.sub(r"\\\n", " ", "\n".join(lines))


def commands_of(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Scripts and arguments of the commands in a header. "..." at a line's start stands for the command before it."""
    before: tuple[str, list[str]] = ("", [])
    for line in header_of(path).splitlines():
        command = re.search(r"(?:python|torchrun) .*?(train_\w+\.py) (--.*)", line)
        more = re.match(r"\.\.\. (--.*)", line)
        if command:
            words = command[2].split(" [")[0].removesuffix(" ...")  # "[what is compared]", "--encoder ..."
            before = command[1], shlex.split(words + " FILE" * words.endswith("--encoder"))
            yield before
        elif more:
            added = shlex.split(more[1])
            kept = [word for word in before[1] if word.startswith("--config") or word.endswith(".yaml")]
            yield before[0], kept + added


def flat(content: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
