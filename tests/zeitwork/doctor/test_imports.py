"""Checks run in threads of one process, where modules that import each other may not be imported for the first time."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import zeitwork.doctor

MODULES = sorted(Path(zeitwork.doctor.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_a_check_imports_nothing_when_it_runs(module: Path) -> None:
    tree = ast.parse(module.read_text())
    late = [
        node.lineno
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert not late
