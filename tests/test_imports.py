"""Who may import whom: the packages stand on little or nothing of each other, so that a part can be taken away."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = {"train_cqe", "train_restorer", "test"}
PACKAGES = {"cqe", "data", "engine", "evaluation", "losses", "restoration"}
ALLOWED = {
    "losses": set(),
    "data": set(),
    "engine": set(),
    "restoration": set(),
    "cqe": {"losses", "data", "engine"},
    "evaluation": {"data", "cqe"},
}
EXCEPTIONS = {
    # Puts a network together with its encoder, and reads the files of both.
    "restoration/published.py": {"cqe", "engine"},
    # The benchmark's two: which networks, and their training step in a process of its own, which no script can hand in.
    "evaluation/benchmark_networks.py": {"restoration"},
    "evaluation/benchmark_worker.py": {"engine", "losses", "restoration"},
}
MODULES = sorted(path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_what_its_package_may(module: str) -> None:
    package = module.split("/")[0]
    allowed = ALLOWED[package] | EXCEPTIONS.get(module, set()) | {package}
    imported = imported_names(ROOT / module) & (PACKAGES | SCRIPTS)
    assert imported <= allowed, f"{module} imports {sorted(imported - allowed)}"


def test_the_exceptions_are_needed_and_exist() -> None:
    for module, allowed in EXCEPTIONS.items():
        assert allowed <= imported_names(ROOT / module)


def imported_names(path: Path) -> set[str]:
    """First parts of the names of all modules a file imports, wherever in the file; no relative imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: line {node.lineno} is a relative import"
            names.add(node.module.split(".")[0])
    return names
