"""Typed configuration: defaults < YAML < `--section.key value`. Mistakes are refused, with file and key in the message.

jsonargparse builds the command line from a tree of dataclasses and checks the types. It does not see repeated keys, and
its message for unknown keys does not name the nearest known one, so both are checked here first.
"""

import dataclasses
import difflib
import math
import sys
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import jsonargparse
import yaml

from common.files import write_text

Config = TypeVar("Config")

SHORT_OPTIONS = {"--resume": "--trainer.resume", "--dry-run": "--trainer.dry_run"}
MAX_LISTED_KEYS = 20  # a longer list would hide the message


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its schedule.

    Args:
        name: "adam"; "adamw", which is the same with the weight decay below; "muon": Muon for the weights of hidden
            convolutions, Adam for all other parameters; "soap" (whose authors have betas of 0.95 and 0.95); or
            "schedule_free": AdamW that averages its weights in place of a schedule and of `ema_decay`.
        lr: learning rate at the peak, > 0; with Muon, that of the parameters which Muon trains.
        betas: the two decay rates of Adam or SOAP, each within 0..1. The first of schedule-free AdamW is the average's
            share in the weights at which gradients are taken.
        weight_decay: decoupled weight decay (as in AdamW), also with "adam".
        momentum: decay of Muon's average of gradients, 0..1.
        adam_lr: with Muon, the learning rate at the peak of the parameters that Adam trains, > 0.
        adam_layers: with Muon, the layers whose convolutions Adam trains: the network's first and last. The default
            fits our restoration networks; for the encoder of stage 1 it is [conv1].
        schedule: "constant", or "cosine" from the peak down to `final_lr_ratio` of it.
        final_lr_ratio: last learning rate of the cosine as a share of the peak, 0..1.
        lr_warmup_steps: steps of linear rise to the peak.
        grad_clip_norm: gradients with a larger norm are scaled down to this norm; null: no clipping.
        ema_decay: decay of the moving average of the weights, which is validated and published; null: no such average.
    """

    name: Literal["adam", "adamw", "muon", "soap", "schedule_free"] = "adam"
    lr: float = 1.0e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    momentum: float = 0.95
    adam_lr: float = 1.0e-3
    adam_layers: tuple[str, ...] = ("head", "tail")
    schedule: Literal["constant", "cosine"] = "cosine"
    final_lr_ratio: float = 0.0
    lr_warmup_steps: int = 0
    grad_clip_norm: float | None = None
    ema_decay: float | None = None

    @property
    def has_average(self) -> bool:
        """Whether an average of the weights is kept, which is validated and published in their place."""
        return self.ema_decay is not None or self.name == "schedule_free"

    def __post_init__(self) -> None:
        for name in ("lr", "adam_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"optim.{name} must be > 0, got {getattr(self, name)}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas must be at least 0 and below 1, got {list(self.betas)}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optim.momentum must be at least 0 and below 1, got {self.momentum}")
        if not 0 <= self.final_lr_ratio <= 1:
            raise ValueError(f"optim.final_lr_ratio must be within 0..1, got {self.final_lr_ratio}")
        for name in ("weight_decay", "lr_warmup_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"optim.{name} must be 0 or more, got {getattr(self, name)}")
        if self.grad_clip_norm is not None and not self.grad_clip_norm > 0:
            raise ValueError(f"optim.grad_clip_norm must be > 0 or null, got {self.grad_clip_norm}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"optim.ema_decay must be between 0 and 1, or null, got {self.ema_decay}")
        if self.name == "schedule_free":
            if self.schedule != "constant" or self.ema_decay is not None:
                raise ValueError(
                    "optim.name schedule_free averages its weights itself; set optim.schedule to constant and "
                    "optim.ema_decay to null"
                )
            if not self.betas[0] > 0:
                raise ValueError(
                    f"optim.betas must start above 0 with schedule_free, got {list(self.betas)}: the average is "
                    f"computed from the trained weights by dividing by it"
                )


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """How long to train, where, and what to write.

    Args:
        run_dir: folder of this run: checkpoint, weights, resolved config, TensorBoard.
        epochs: passes over the training images; a pass takes one patch (or pair) of each image.
        max_steps: end after this many steps; the schedule is fitted to them, and `epochs` is ignored. null: `epochs`
            decides.
        max_minutes: end within this time; the schedule is fitted to it. It is time on the clock. Validations count, and
            the last one is expected to take as long as the longest before it. All parts of a resumed run count. The
            start before the first step, packing images and compiling do not count. null: no time limit.
        seed: of weights and samples.
        device: "auto" (CUDA where there is one), "cuda" or "cpu".
        precision: "bfloat16" (autocast), "float32", or "auto": bfloat16 where the device has instructions for it.
        micro_batches: parts in which each process computes its share of a batch, one after the other. More parts need
            less memory; their gradients are added up to those of the whole batch. BatchNorm sees one part at a time.
        channels_last: keep activations in NHWC order.
        compile: compile the training step (torch.compile); "auto": on CUDA only. If compiling fails, the log says why
            and training goes on without it.
        resume: true goes on from the run's newest checkpoint; "auto" does too, and starts if there is none.
        dry_run: print what the training would do (size, arithmetic, memory, steps, learning rate) and end.
        timeout_seconds: how long a process waits for the others, when one validates or has died, before all end.
        log_every_steps: steps between two lines of the log.
        validate_every_steps: steps between two validations; the last step is always validated.
        save_every_minutes: longest time between two checkpoints; null: no limit. The last step is always saved.
        save_every_steps: most steps between two checkpoints; null: no limit.
        keep_checkpoints: how many of the newest checkpoints are kept, at least 1. If the newest is damaged, a resumed
            run goes on from the one before it.
    """

    run_dir: str
    epochs: int = 600
    max_steps: int | None = None
    max_minutes: float | None = None
    seed: int = 0
    device: Literal["auto", "cuda", "cpu"] = "auto"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    micro_batches: int = 1
    channels_last: bool = True
    compile: bool | Literal["auto"] = "auto"
    resume: bool | Literal["auto"] = False
    dry_run: bool = False
    timeout_seconds: float = 3600.0
    log_every_steps: int = 50
    validate_every_steps: int = 1000
    save_every_minutes: float | None = 2.0
    save_every_steps: int | None = None
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        if not self.run_dir:
            raise ValueError("trainer.run_dir is empty; name a folder such as runs/first")
        every = ("log_every_steps", "validate_every_steps", "save_every_steps", "save_every_minutes")
        for name in (
            "epochs",
            "max_steps",
            "max_minutes",
            "micro_batches",
            "keep_checkpoints",
            "timeout_seconds",
            *every,
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"trainer.{name} must be > 0, got {value}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"trainer.seed must be at least 0 and below 2**63, got {self.seed}")


def parse_config(
    config_class: type[Config], arguments: Sequence[str] | None = None, *, description: str = ""
) -> Config:
    """The configuration of a training script from its command line.

    Args:
        config_class: a dataclass whose fields are dataclasses: the sections.
        arguments: the command line; None takes the process's own.
        description: first line of `--help`.

    `--config FILE` names the YAML and may be repeated: later files win. `--SECTION FILE` reads one section from a file
    of its own. `--SECTION.KEY VALUE` wins over all files, wherever it stands. `--resume` is short for
    `--trainer.resume true`, `--resume auto` for `--trainer.resume auto`, and `--dry-run` for `--trainer.dry_run true`.

    Raises:
        FileNotFoundError: if the YAML file is missing.
        ValueError: one line that names the file or key, what was wrong, and the nearest known key.
    """
    options = _split(sys.argv[1:] if arguments is None else arguments)
    _refuse_repeated(options)
    sections = dict(_sections(config_class))
    # Files of all sections first, then those of one, then single keys: each wins over what stands before it.
    options.sort(key=lambda option: (option.name != "config", option.name not in sections, option.name.count(".")))
    parser = jsonargparse.ArgumentParser(
        prog=Path(sys.argv[0]).name,
        description=f"{description} --resume, short for --trainer.resume true, goes on from the run's newest "
        "checkpoint; --resume auto starts or goes on. "
        "--dry-run, short for --trainer.dry_run true, prints what the training would do, and ends.",
        exit_on_error=False,
        default_env=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the sections below")
    parser.add_class_arguments(config_class)
    files = [option.value for option in options if option.name == "config" and option.value]
    for file in files:
        check_yaml(file, config_class)
    for option in options:
        if option.name in sections and option.value:
            _check_section(option, sections[option.name])
    where = f" ({', '.join(files)})" if files else ""
    try:
        namespace = parser.parse_args([word for option in options for word in option.words])
        namespace.pop("config")
        return config_class(**dict(parser.instantiate(namespace)))
    except jsonargparse.ArgumentError as error:
        raise ValueError(_explain(str(error), config_class) + where) from None
    except ValueError as error:
        raise ValueError(f"{error}{where}") from None


def check_yaml(path: str | Path, config_class: type, *, prefix: str = "") -> None:
    """Refuse a YAML file with a key given twice or one that `config_class` does not have.

    Args:
        path: the file.
        config_class: a dataclass.
        prefix: what stands before the file's keys in a message, such as `optim.`.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: naming file, line or key.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no config file {path}; see configs/ for those that come with the project")
    try:
        content = _load_unique(Path(path).read_text(), str(path))
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file; give a YAML file") from None
    if not isinstance(content, dict):
        expected = "keys such as 'lr:'" if prefix else "sections such as 'data:' and 'optim:'"
        raise ValueError(f"{path} must hold {expected}, got {type(content).__name__}")
    _refuse_unknown(content, config_class, str(path), prefix=prefix)


def to_dict(config: Any) -> dict:
    """A config as plain containers, for YAML, JSON and checkpoints."""
    plain = dataclasses.asdict(config)
    return yaml.safe_load(yaml.safe_dump(_tuples_to_lists(plain)))


def defaults(config: Any) -> dict:
    """The defaults of a config's keys, in plain containers as `to_dict`; without the keys that have none."""
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            values[field.name] = defaults(value)
        elif field.default is not dataclasses.MISSING:
            values[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            values[field.name] = field.default_factory()
    return _tuples_to_lists(values)


def save_config(config: Any, path: str | Path) -> None:
    """Write the resolved configuration as YAML. It is enough to repeat the run."""
    write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False))


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice. PyYAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # a list or mapping as key, which the parent class refuses
            if key_node.value in seen:
                line = key_node.start_mark.line + 1
                raise yaml.YAMLError(f"key '{key_node.value}' is given twice (again in line {line})")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _load_unique(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None


@dataclasses.dataclass(frozen=True)
class _Option:
    """One option of a command line; `name` is empty for words that stand before the first."""

    name: str
    value: str | None
    words: list[str]


def _split(arguments: Sequence[str]) -> list[_Option]:
    groups: list[list[str]] = []
    for word in arguments:
        if word.startswith("--") or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    options = []
    for words in groups:
        name, has_value, value = words[0].partition("=")
        if name in SHORT_OPTIONS:
            name, words = SHORT_OPTIONS[name], words if has_value or words[1:] else [*words, "true"]
            words = [f"{name}={value}" if has_value else name, *words[1:]]
        following = words[1] if len(words) > 1 else None
        name = name.removeprefix("--") if name.startswith("--") else ""
        options.append(_Option(name, value if has_value else following, words))
    return options


def _refuse_repeated(options: Sequence[_Option]) -> None:
    # jsonargparse silently keeps the last. `--config` may be repeated, and `--KEY+` adds to a list.
    names = [option.name for option in options if option.name not in ("", "config") and not option.name.endswith("+")]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ValueError(f"option --{name} is given twice on the command line; give it once")


def _sections(config_class: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Names of all sections, such as `network` and `network.fast`, and their classes."""
    for name, kind in typing.get_type_hints(config_class).items():
        if dataclasses.is_dataclass(kind):
            yield prefix + name, kind
            yield from _sections(kind, f"{prefix}{name}.")


def _check_section(option: _Option, section: type) -> None:
    """Refuse repeated and unknown keys in `--SECTION FILE` or `--SECTION '{KEY: VALUE}'`."""
    if not option.value.lstrip().startswith("{") and Path(option.value).is_file():
        check_yaml(option.value, section, prefix=f"{option.name}.")
        return
    content = _load_unique(option.value, f"--{option.name}")
    if not isinstance(content, dict):
        raise ValueError(f"--{option.name} takes a YAML file or keys with values, but there is no file {option.value}")
    _refuse_unknown(content, section, f"--{option.name}", prefix=f"{option.name}.")


def _refuse_unknown(content: dict, config_class: type, path: str, prefix: str) -> None:
    fields = {field.name: typing.get_type_hints(config_class)[field.name] for field in dataclasses.fields(config_class)}
    for key, value in content.items():
        if key not in fields:
            raise ValueError(f"unknown key '{prefix}{key}' in {path}{_nearest(str(key), list(fields))}")
        if dataclasses.is_dataclass(fields[key]):
            if not isinstance(value, dict):
                raise ValueError(f"'{prefix}{key}' in {path} must be a section with keys, got {value!r}")
            _refuse_unknown(value, fields[key], path, prefix=f"{prefix}{key}.")


def _nearest(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known keys: {', '.join(known)}" if len(known) <= MAX_LISTED_KEYS else "; --help lists all keys"


def _all_keys(config_class: type, prefix: str = "") -> Iterator[str]:
    for name, kind in typing.get_type_hints(config_class).items():
        if dataclasses.is_dataclass(kind):
            yield from _all_keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def _explain(message: str, config_class: type) -> str:
    """jsonargparse's message as one line; for an unknown option it names the nearest known key."""
    message = " ".join(message.split())
    if message.startswith("unrecognized arguments:"):
        option = message.split(":", 1)[1].split()[0]
        return f"unknown option '{option}'{_nearest(option.lstrip('-').split('=')[0], list(_all_keys(config_class)))}"
    if message.startswith("the following arguments are required:"):
        return f"{message.split(': ', 1)[1]} is required: give it in the YAML or on the command line as --section.key"
    return message.replace('Parser key "', '"').replace("<class '", "").replace("'>", "").replace("typing.", "")


def _tuples_to_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples_to_lists(item) for key, item in value.items()}
    return [_tuples_to_lists(item) for item in value] if isinstance(value, list | tuple) else value
