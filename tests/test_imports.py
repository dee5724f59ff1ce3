"""Who may import whom: one order of the packages, without exceptions; and all other packages are required ones."""

import ast
import re
import sys

import pytest

from tests.places import ROOT

ORDER = ("common", "losses", "data", "engine", "cqe", "restoration", "evaluation", "commands")
SCRIPTS = {"train_cqe", "train_restorer", "test"}
MODULES = sorted(path.relative_to(ROOT).as_posix() for name in ORDER for path in (ROOT / name).rglob("*.py"))
# Names of packages where they differ from what is imported.
REQUIRED_AS = {"PIL": "pillow", "yaml": "pyyaml", "skimage": "scikit-image", "sklearn": "scikit-learn"}
# Narrower than the order: the training loop serves any data and loss, the networks any encoder.
NARROWER = {
    "engine/": {"common", "engine"},
    "restoration/networks/": {"restoration.networks"},
}


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_what_stands_before_it(module: str) -> None:
    package = module.split("/")[0]
    allowed = set(ORDER[: ORDER.index(package) + 1])
    for folder, narrower in NARROWER.items():
        allowed = narrower if module.startswith(folder) else allowed
    imported = {name for name in imported_names(module) if name.split(".")[0] in (*ORDER, *SCRIPTS)}
    strangers = {name for name in imported if not any(is_within(name, package) for package in allowed)}
    assert not strangers, f"{module} imports {sorted(strangers)}"


def test_every_other_package_is_in_the_requirements() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = {re.split(r"[\[<>=]", line)[0].replace("-", "_") for line in lines if not line.startswith("#")}
    imported = {name.split(".")[0] for module in [*MODULES, *(f"{name}.py" for name in SCRIPTS)]
                for name in imported_names(module)}  # fmt: skip
    others = imported - set(sys.stdlib_module_names) - set(ORDER) - SCRIPTS
    packages = {REQUIRED_AS.get(name, name).replace("-", "_") for name in others}
    assert packages <= required, f"not in requirements.txt: {sorted(packages - required)}"


def test_every_package_has_its_place_in_the_order() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == set(ORDER)


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def imported_names(module: str) -> set[str]:
    """Full names of all modules that a file imports, wherever in the file; no relative imports."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: line {node.lineno} is a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names
