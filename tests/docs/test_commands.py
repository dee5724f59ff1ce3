"""Every command, option, config key and file that README, docs, model cards and the notes on configs name exists."""

import argparse
import dataclasses
import importlib
import re
import shlex
import typing
from collections.abc import Iterator
from functools import cache

import pytest

from commands import ablation
from commands.arguments import OneLineParser
from cqe.config import CqeConfig
from data.__main__ import _parser as data_parser
from engine.config import SHORT_OPTIONS, parse_config
from restoration.config import RestorerConfig
from tests.places import ROOT
from tests.program import load

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("README.md", "docs/*.md", "weights/*.md", "configs/*/README.md")
    for path in ROOT.glob(pattern)
)
CONFIGS = {"train_cqe.py": CqeConfig, "train_restorer.py": RestorerConfig}
SECTIONS = {field.name for config in CONFIGS.values() for field in dataclasses.fields(config)}
COMMAND = re.compile(
    r"^(?:torchrun(?: --[\w-]+(?:=\S+)?)+|python) +"
    r"(test\.py|-m data|-m commands\.ablation|train_\w+\.py)(?: +(.*))?$"
)
PLACEHOLDER = re.compile(r"\.\.\.(?!\d)|<|OPTIONS|\bS\b")  # what a reader fills in; only option names are checked
TORCHRUN = {
    "--standalone",
    "--nproc_per_node",
    "--nnodes",
    "--max-restarts",
    "--rdzv_id",
    "--rdzv_backend",
    "--rdzv_endpoint",
}
SLURM = {
    "--nodes",
    "--ntasks-per-node",
    "--gpus-per-node",
    "--cpus-per-task",
    "--time",
    "--requeue",
    "--open-mode",
    "--signal",
}
PIP = {"--no-deps", "--only-binary", "--python-version"}
OTHERS = {"--logdir"} | TORCHRUN | SLURM | PIP  # the first is TensorBoard's


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(page: str) -> None:
    for code in snippets(page):
        found = COMMAND.match(code)
        if found:
            understand(found[1], shlex.split(found[2] or "", comments=True))
        elif code.startswith("make "):
            targets = [word for word in shlex.split(code, comments=True)[1:] if "=" not in word]
            assert set(targets) <= make_targets(), code


@pytest.mark.parametrize("page", PAGES)
def test_options_exist(page: str) -> None:
    programs = ("-m data", "-m commands.ablation", *CONFIGS, *subcommands())
    known = OTHERS.union(*map(options_of, programs))
    for code in snippets(page):
        unknown = {word.split("=")[0] for word in re.findall(r"(?<!\S)--[A-Za-z]\S*", code)} - known
        assert not unknown, f"{page}: {sorted(unknown)} in `{code}`"


@pytest.mark.parametrize("page", PAGES)
def test_config_keys_exist(page: str) -> None:
    known = {key for config in CONFIGS.values() for key in keys_of(config)}
    for code in snippets(page):
        key = re.match(rf"({'|'.join(SECTIONS)})\.[a-z_.]+", code)
        if key and not key[0].endswith((".safetensors", ".py", ".md")):
            assert key[0] in known, f"{page}: `{code}`"


@pytest.mark.parametrize("page", PAGES)
def test_files_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    here = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert target.startswith("http") or (here / target).exists(), f"{page}: link to {target}"
    for code in snippets(page):
        if re.fullmatch(r"(configs|docs|weights|tests|evaluation|restoration|commands)/[\w/.{},*-]+", code):
            missing = [name for name in expanded(code) if not list(ROOT.glob(name))]
            assert not missing, f"{page}: {missing}"


@pytest.mark.parametrize("page", PAGES)
def test_links_within_pages_lead_to_headings(page: str) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        text = ((ROOT / page).parent / target if target else ROOT / page).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings], anchor


def test_a_wrong_option_is_found() -> None:
    with pytest.raises(SystemExit):
        understand("test.py", ["evaluate", "--weights", "jpeg", "--sets", "live1", "--no-such-option", "1"])
    with pytest.raises(ValueError, match="no_such_key"):
        understand("train_cqe.py", ["--config", "configs/cqe/gray.yaml", "--optim.no_such_key", "1"])
    assert "--no-such-option" not in options_of("evaluate") and "--weights" in options_of("evaluate")


def understand(program: str, words: list[str]) -> None:
    """Parse a command's words with its own parser, or only look it up where it is named without options."""
    if program == "test.py":
        assert words and words[0] in subcommands(), words
        parser, words = subcommand_parser(words[0]), words[1:]
    else:
        parser = data_parser()
    if not words or words == ["--help"] or PLACEHOLDER.search(" ".join(words)):
        return
    if program == "-m commands.ablation":
        ablation.planned(*ablation.build_parser().parse_known_args(words))
    elif program in CONFIGS:
        files = [
            ROOT / file if option == "--config" else file for option, file in zip(["", *words], words, strict=False)
        ]
        parse_config(CONFIGS[program], list(map(str, files)))
    else:
        parser.parse_args(words)


def snippets(page: str) -> Iterator[str]:
    """Code of a page, a command each: lines of fenced blocks, continued ones joined, and what stands in backticks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    fenced = re.compile(r"^```\w*\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
    for block in fenced.findall(text):
        yield from (" ".join(line.split()) for line in block.replace("\\\n", " ").splitlines() if line.strip())
    for code in re.findall(r"`([^`]+)`", fenced.sub("", text)):
        yield " ".join(code.split())


@cache
def subcommands() -> tuple[str, ...]:
    return load().COMMANDS


@cache
def subcommand_parser(name: str) -> argparse.ArgumentParser:
    parser = OneLineParser(prog=f"test.py {name}")
    importlib.import_module(f"commands.{name}").add_arguments(parser)
    return parser


@cache
def options_of(program: str) -> frozenset[str]:
    """Options, in full, of a subcommand of test.py, of a training script or of `-m data`."""
    if program in CONFIGS:
        return frozenset({"--config", *SHORT_OPTIONS, "--help"} | {f"--{key}" for key in keys_of(CONFIGS[program])})
    if program == "-m commands.ablation":
        return frozenset(option_strings(ablation.build_parser()))
    return frozenset(option_strings(data_parser() if program == "-m data" else subcommand_parser(program)))


def option_strings(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from option_strings(inner)


def keys_of(config_class: type, prefix: str = "") -> Iterator[str]:
    """Every key of a config and every section, as `section.key`."""
    for name, kind in typing.get_type_hints(config_class).items():
        yield prefix + name
        if dataclasses.is_dataclass(kind):
            yield from keys_of(kind, f"{prefix}{name}.")


@cache
def make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def expanded(name: str) -> list[str]:
    """`a_{b,c}` as `a_b` and `a_c`."""
    found = re.search(r"\{([^}]*)\}", name)
    if not found:
        return [name]
    return [part for word in found[1].split(",") for part in expanded(name.replace(found[0], word, 1))]


def test_makefile_commands_are_understood() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = text.replace("$(EVALUATE)", re.search(r"^EVALUATE = (.*)$", text, flags=re.MULTILINE)[1])
    text = text.replace("--config $(RUN).yaml ", "")  # which `test.py fit` makes
    values = dict(re.findall(r"^([A-Z]+) \?= (.*)$", text, flags=re.MULTILINE)) | {"NAME": "x", "READY": "python"}
    for name, value in (*values.items(), ("OPTIONS", ""), ("QUICK", "runs/quickstart"), ("NAME", "x")):
        text = text.replace(f"$({name})", value)
    text = text.replace("\\\n", " ").replace("$(BIN)/", "").replace("$$", "")
    commands = [" ".join(line.split(";")[0].split()) for line in text.splitlines() if line.startswith("\tpython ")]
    found = [match for match in map(COMMAND.match, commands) if match]
    assert len(found) >= 10
    for match in found:
        understand(match[1], shlex.split(match[2]))


def test_pages_are_read() -> None:
    assert {"README.md", "docs/training.md", "weights/fast_tiny_gray.md", "configs/cqe/README.md"} <= set(PAGES)
    assert sum(bool(COMMAND.match(code)) for page in PAGES for code in snippets(page)) > 20
    assert all((ROOT / page).read_text(encoding="utf-8").count("```") % 2 == 0 for page in PAGES)
