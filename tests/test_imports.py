"""Which module imports which: in one direction, never in a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]


def imports_of(file: Path) -> set[str]:
    """Modules of the two packages that a file imports when it is imported itself."""
    found: set[str] = set()

    def visit(statements: list[ast.stmt]) -> None:
        for statement in statements:
            if isinstance(statement, ast.ImportFrom) and statement.module:
                names = {f"{statement.module}.{alias.name}" for alias in statement.names}
                found.update(name if name in MODULES else statement.module for name in names)
            elif isinstance(statement, ast.Import):
                found.update(alias.name for alias in statement.names)
            elif isinstance(statement, ast.Try | ast.With) or is_plain_if(statement):
                visit(statement.body)

    visit(ast.parse(file.read_text("utf-8")).body)
    return found & MODULES.keys()


def is_plain_if(statement: ast.stmt) -> bool:
    """Not one for type checkers alone."""
    return isinstance(statement, ast.If) and "TYPE_CHECKING" not in ast.dump(statement.test)


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file): file for name in ("espo_env", "espo_algo") for file in (ROOT / name).rglob("*.py")}
GRAPH = {module: imports_of(file) for module, file in MODULES.items()}


def test_no_module_imports_itself_by_way_of_others():
    order = [*TopologicalSorter(GRAPH).static_order()]  # raises a CycleError that names the circle
    assert {"espo_algo.espo", "espo_env.types"} <= {*order}


def test_the_environment_package_does_not_know_the_algorithm():
    assert not [(m, i) for m in GRAPH for i in GRAPH[m] if m.startswith("espo_env") and i.startswith("espo_algo")]


def test_the_detector_knows_no_environment():
    own = {m: GRAPH[m] for m in GRAPH if m.startswith("espo_env.early_stopping")}
    allowed = {"espo_env.types", "espo_env.registry", *own}
    assert {i for imported in own.values() for i in imported} <= allowed


def test_vllms_internals_are_imported_in_one_folder():
    internals = ("vllm.v1", "vllm.model_executor", "vllm.platforms")
    found = {module for module, file in MODULES.items() if any(f"from {i}" in file.read_text() for i in internals)}
    assert found == {"espo_algo.rollout.vllm.worker", "espo_algo.rollout.vllm.start"}
