"""Configuration: what wins over what, and that every mistake is refused in one line naming file or key."""

import dataclasses
import itertools
import re
from pathlib import Path

import pytest
import yaml

from cqe.config import CqeConfig
from engine.config import OptimConfig, TrainerConfig, parse_config, save_config, to_dict
from restoration.config import RestorerConfig

MINIMAL = "trainer: {run_dir: runs/x}\n"


@pytest.fixture
def parse(tmp_path: Path):
    """Parse a stage 1 config from YAML text and a command line."""

    def parse_text(text: str, *arguments: str, config_class: type = CqeConfig):
        file = tmp_path / "config.yaml"
        file.write_text(text)
        return parse_config(config_class, ["--config", str(file), *arguments])

    return parse_text


def test_command_line_wins_over_yaml_and_yaml_over_defaults(parse) -> None:
    config = parse(MINIMAL + "optim: {lr: 0.5, weight_decay: 0.25}\n", "--optim.lr", "0.125")
    assert (config.optim.lr, config.optim.weight_decay) == (0.125, 0.25)
    assert config.optim.final_lr_ratio == OptimConfig().final_lr_ratio
    assert config.trainer == TrainerConfig(run_dir="runs/x")


def test_the_order_of_file_and_options_decides_nothing_in_favour_of_an_earlier_file(tmp_path: Path) -> None:
    for name, rate in (("first", 0.5), ("second", 0.25)):
        (tmp_path / name).write_text(MINIMAL + f"optim: {{lr: {rate}}}\n")
    config = parse_config(CqeConfig, ["--config", str(tmp_path / "first"), f"--config={tmp_path / 'second'}"])
    assert config.optim.lr == 0.25


def test_a_config_needs_no_file() -> None:
    assert parse_config(CqeConfig, ["--trainer.run_dir=a", "--moco.queue_length", "16"]).moco.queue_length == 16


def test_a_key_on_the_command_line_wins_wherever_it_stands(parse, tmp_path: Path) -> None:
    (tmp_path / "first").write_text(MINIMAL + "optim: {lr: 0.5, weight_decay: 0.5, final_lr_ratio: 0.5}\n")
    (tmp_path / "optim").write_text("lr: 0.25\nweight_decay: 0.25\n")
    options = [["--optim.lr=0.125"], ["--config", str(tmp_path / "first")], ["--optim", str(tmp_path / "optim")]]
    for ordered in itertools.permutations(options):
        optim = parse_config(CqeConfig, sum(ordered, [])).optim
        assert (optim.lr, optim.weight_decay, optim.final_lr_ratio) == (0.125, 0.25, 0.5)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("lr: 1\nlr: 2", r"optim\.yaml is not valid YAML: key 'lr' is given twice \(again in line 2\)"),
        ("lrr: 1", r"unknown key 'optim\.lrr' in \S+optim\.yaml; did you mean 'lr'\?"),
        ("[1]", r"optim\.yaml must hold keys such as 'lr:', got list"),
        ("a: [b", r"optim\.yaml is not valid YAML: .*expected"),
    ],
)
def test_a_mistake_in_the_file_of_a_section_is_one_line(parse, tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "optim.yaml").write_text(text)
    assert_one_line(complaint, lambda: parse(MINIMAL, f"--optim={tmp_path / 'optim.yaml'}"))


def test_a_section_of_a_section_has_a_file_too(parse, tmp_path: Path) -> None:
    (tmp_path / "fast.yaml").write_text("widths: [1, 2, 3]\nblocks_dwn: [1, 1, 1]")
    text, option = MINIMAL + "encoder: e\n", f"--network.fast={tmp_path / 'fast.yaml'}"
    complaint = r"unknown key 'network\.fast\.blocks_dwn' in \S+fast\.yaml; did you mean 'blocks_down'\?"
    assert_one_line(complaint, lambda: parse(text, option, config_class=RestorerConfig))
    (tmp_path / "fast.yaml").write_text("widths: [1, 2, 3]")
    assert parse(text, option, config_class=RestorerConfig).network.fast.widths == (1, 2, 3)


@pytest.mark.parametrize("number", ["1e-4", "1.0e-4", "0.0001"])
def test_floats_may_be_written_in_any_notation(parse, number: str) -> None:
    assert parse(MINIMAL + f"optim: {{lr: {number}}}\n").optim.lr == 1e-4
    assert parse(MINIMAL, "--optim.lr", number).optim.lr == 1e-4


def test_resume_is_short_for_its_key(parse) -> None:
    assert parse(MINIMAL).trainer.resume is False
    for words in (["--resume"], ["--resume", "true"], ["--resume=true"], ["--trainer.resume", "true"]):
        assert parse(MINIMAL, *words).trainer.resume is True
        assert parse(MINIMAL, *words, "--trainer.seed", "1").trainer.seed == 1
    for words in (["--resume", "auto"], ["--resume=auto"], ["--trainer.resume", "auto"]):
        assert parse(MINIMAL, *words).trainer.resume == "auto"


def test_dry_run_is_short_for_its_key(parse) -> None:
    assert not parse(MINIMAL).trainer.dry_run
    assert parse(MINIMAL, "--dry-run", "--optim.lr", "0.5").trainer.dry_run


def test_lists_are_replaced_and_tuples_keep_their_length(parse) -> None:
    config = parse(MINIMAL + "data: {train: [a, b]}\noptim: {betas: [0.5, 0.75]}\n", "--data.train", "[c]")
    assert config.data.train == ["c"] and config.optim.betas == (0.5, 0.75)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("optm: {lr: 1}", r"unknown key 'optm' in \S+config\.yaml; did you mean 'optim'\?"),
        ("optim: {lrr: 1}", r"unknown key 'optim\.lrr' in \S+config\.yaml; did you mean 'lr'\?"),
        ("moco: {zzz: 1}", r"unknown key 'moco\.zzz' in \S+; known keys: queue_length, momentum, temperature, equal_"),
        ("1: 2", r"unknown key '1' in \S+config\.yaml"),
        ("optim: {lr: 1, lr: 2}", r"config\.yaml is not valid YAML: key 'lr' is given twice \(again in line 2\)"),
        ("trainer: {run_dir: b}", r"config\.yaml is not valid YAML: key 'trainer' is given twice \(again in line 2\)"),
        ("optim: 5", r"'optim' in \S+config\.yaml must be a section with keys, got 5"),
        ("optim:", r"'optim' in \S+config\.yaml must be a section with keys, got None"),
        ("optim: {lr: fast}", r"optim\.lr.*Expected a float.*fast.*config\.yaml"),
        ("data: {channels: 1.5}", r"data\.channels.*Expected a int.*1\.5.*config\.yaml"),
        ("data: {val: no}", r"data\.val.*Expected a str.*False.*config\.yaml"),
        ("data: {val: 5}", r"data\.val.*Expected a str.*5.*config\.yaml"),
        ("data: {train: [no]}", r"data\.train.*Expected a str.*False.*config\.yaml"),
        ("data: {train: bsds500}", r"data\.train.*Expected a list.*bsds500.*config\.yaml"),
        ("optim: {betas: [0.1]}", r"optim\.betas.*tuple with 2 elements.*config\.yaml"),
        ("optim: {schedule: step}", r"optim\.schedule.*constant.*cosine.*step.*config\.yaml"),
        ("optim: {lr: -1}", r"optim\.lr must be > 0, got -1\.0 \(\S+config\.yaml\)"),
        ("optim: {lr: .nan}", r"optim\.lr.*nan.*config\.yaml"),
        ("optim: {betas: [0.1, 2]}", r"optim\.betas must be at least 0 and below 1.*config\.yaml"),
        ("optim: {name: sgd}", r"optim\.name.*adam.*adamw.*muon.*sgd.*config\.yaml"),
        ("optim: {momentum: 1}", r"optim\.momentum must be at least 0 and below 1, got 1\.0.*config\.yaml"),
        ("optim: {adam_lr: 0}", r"optim\.adam_lr must be > 0, got 0\.0.*config\.yaml"),
        ("optim: {weight_decay: -1}", r"optim\.weight_decay.*0 or more.*config\.yaml"),
        ("optim: {grad_clip_norm: 0}", r"optim\.grad_clip_norm must be > 0 or null.*config\.yaml"),
        ("optim: {ema_decay: 1}", r"optim\.ema_decay must be between 0 and 1.*config\.yaml"),
        ("optim: {name: schedule_free}", r"schedule_free averages its weights itself; set optim\.schedule to constant"),
        (
            "optim: {name: schedule_free, schedule: constant, ema_decay: 0.9}",
            r"schedule_free averages its weights itself; .* optim\.ema_decay to null \(\S+config\.yaml\)",
        ),
        ("optim: {name: schedule_free, schedule: constant}", r"optim\.name schedule_free is for stage 2.*config\.yaml"),
        (
            "optim: {name: schedule_free, schedule: constant, betas: [0, 0.9]}",
            r"optim\.betas must start above 0 with schedule_free, got \[0\.0, 0\.9\].*config\.yaml",
        ),
        ("encoder: {width: 0}", r"encoder\.width must be at least 8, got 0.*config\.yaml"),
        ("moco: {momentum: 2}", r"moco\.momentum must be within 0\.\.1, got 2\.0.*config\.yaml"),
        ("moco: {temperature: 0}", r"moco\.temperature must be > 0, got 0\.0.*config\.yaml"),
        (
            "moco: {queue_length: 100}",
            r"moco\.queue_length \(100\) must be a multiple of the 8 pairs of a step: data\.b",
        ),
        (
            "pairs: {qualities_per_image: 3}",
            r"moco\.queue_length \(65536\) must be a multiple of the 24 pairs of a step: data\.batch_size \(8\) x "
            r"pairs\.qualities_per_image \(3\)",
        ),
        ("moco: {equal_qualities: kept}", r"moco\.equal_qualities.*negatives.*skipped.*positives.*kept.*config\.yaml"),
        ("objective: cluster", r"objective.*contrast.*labels.*cluster.*config\.yaml"),
        ("pairs: {share: 1}", r"unknown key 'pairs\.share' in \S+config\.yaml; did you mean 'double_share'\?"),
        ("? [a]\n: b", r"config\.yaml is not valid YAML: .*unhashable key"),
        ("a: [b", r"config\.yaml is not valid YAML: .*expected"),
    ],
)
def test_a_mistake_in_the_yaml_is_one_line_naming_file_or_key(parse, text: str, complaint: str) -> None:
    assert_one_line(complaint, lambda: parse(MINIMAL + text + "\n"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", r"must hold sections .* got NoneType"),
        (b"- a\n- b\n", r"must hold sections .* got list"),
        (b"just words", r"must hold sections .* got str"),
        (b"\x89PNG\r\n\x1a\n\xff", r"is not a text file; give a YAML file"),
        (b"a\x00b", r"is not valid YAML"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    assert_one_line(rf"c\.yaml {complaint}", lambda: parse_config(CqeConfig, ["--config", str(tmp_path / "c.yaml")]))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(FileNotFoundError, match=re.escape(f"no config file {path}; see configs/")):
            parse_config(CqeConfig, [f"--config={path}"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--optm.lr", "1"], r"unknown option '--optm\.lr'; did you mean 'optim\.lr'\?"),
        (["--optim.lrr=1"], r"unknown option '--optim\.lrr=1'; did you mean 'optim\.lr'\?"),
        (["--trainer.res", "true"], r"unknown option '--trainer\.res'; did you mean 'trainer\.resume'\?"),
        (["stray"], r"unknown option 'stray'"),
        (["--optim.lr"], r"--optim\.lr: expected one argument"),
        (["--optim.lr", "fast"], r"optim\.lr.*Expected a float.*fast"),
        (["--trainer.precision", "half"], r"trainer\.precision.*float32.*half"),
        (["--trainer.epochs", "0"], r"trainer\.epochs must be > 0, got 0"),
        (["--trainer.max_minutes", "-1"], r"trainer\.max_minutes must be > 0, got -1\.0"),
        (["--trainer.save_every_minutes", "0"], r"trainer\.save_every_minutes must be > 0, got 0\.0"),
        (["--trainer.compile", "maybe"], r"trainer\.compile.*maybe"),
        (["--resume", "perhaps"], r"trainer\.resume.*perhaps"),
        (["--trainer.keep_checkpoints", "0"], r"trainer\.keep_checkpoints must be > 0, got 0"),
        (["--trainer.seed", "-1"], r"trainer\.seed must be at least 0 and below 2\*\*63, got -1"),
        (
            ["--trainer.seed", str(2**64)],
            r"trainer\.seed must be at least 0 and below 2\*\*63, got 18446744073709551616",
        ),
        (["--data.patch_size_px", "10000000"], r"data\.patch_size_px must be at most 8192, got 10000000"),
        (["--config"], r"--config: expected one argument"),
        (["--optim.lr", "1", "--optim.lr", "2"], r"option --optim\.lr is given twice on the command line"),
        (["--optim.lr=1", "--moco.momentum=0", "--optim.lr", "1"], r"option --optim\.lr is given twice"),
        (["--resume", "--trainer.resume=false"], r"option --trainer\.resume is given twice"),
        (["--optim", "{lr: 1, lr: 2}"], r"--optim is not valid YAML: key 'lr' is given twice"),
        (["--optim", "{lrr: 1}"], r"unknown key 'optim\.lrr' in --optim; did you mean 'lr'\?"),
        (["--optim", "none.yaml"], r"--optim takes a YAML file or keys with values, but there is no file none\.yaml"),
        (["--optim={lr: 1}", "--optim={lr: 2}"], r"option --optim is given twice on the command line"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(parse, arguments: list[str], complaint: str) -> None:
    assert_one_line(complaint, lambda: parse(MINIMAL, *arguments))


def test_a_required_key_is_asked_for(parse) -> None:
    assert_one_line(r"trainer\.run_dir is required", lambda: parse("trainer: {epochs: 3}\n"))
    assert_one_line(r"trainer\.run_dir is required", lambda: parse_config(CqeConfig, []))
    assert_one_line(r"encoder is required", lambda: parse(MINIMAL, config_class=RestorerConfig))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("network: {name: slow}", r"network\.name.*paper.*fast.*slow"),
        ("network: {fst: {}}", r"unknown key 'network\.fst' in \S+; did you mean 'fast'\?"),
        ("network: {fast: {widths: [1, 2]}}", r"network\.fast\.widths.*tuple with 3 elements"),
        ("network: {name: paper, paper: {width: 0}}", r"network\.paper\.width must be at least 1, got 0"),
        (
            "network: {name: paper, paper: {groups: [-1, 0, 0]}}",
            r"network\.paper\.groups must be 0 or more, got \[-1, 0",
        ),
        ("loss: {fft_weight: -1}", r"loss\.fft_weight must be 0 or more"),
        ("validation: {qualities: [0]}", r"qualities: '0' is no quality within 1\.\.100"),
        ("validation: {num_images: 0}", r"validation\.num_images must be at least 1 or null, got 0"),
        (
            "optim: {name: schedule_free, schedule: constant}\ntrain_encoder: true",
            r"optim\.name schedule_free cannot train the encoder",
        ),
        (
            "network: {name: fast, fast: {fusion: none}}\ntrain_encoder: true",
            r"train_encoder is on, but network\.fast\.fusion is none",
        ),
    ],
)
def test_mistakes_in_stage_2_sections_are_one_line(parse, text: str, complaint: str) -> None:
    assert_one_line(complaint, lambda: parse(f"{MINIMAL}encoder: e\n{text}\n", config_class=RestorerConfig))


def test_the_resolved_config_reads_back_as_the_same(tmp_path: Path) -> None:
    arguments = ["--trainer.run_dir=a", "--encoder=e", "--optim.lr=1e-5", "--network.fast.widths=[1,2,3]"]
    config = parse_config(RestorerConfig, arguments)
    save_config(config, tmp_path / "resolved.yaml")
    assert parse_config(RestorerConfig, [f"--config={tmp_path / 'resolved.yaml'}"]) == config
    assert yaml.safe_load((tmp_path / "resolved.yaml").read_text()) == to_dict(config)


def test_configs_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        OptimConfig().lr = 1.0


def assert_one_line(complaint: str, parse) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        parse()
    assert "\n" not in str(caught.value)
