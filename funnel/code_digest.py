"""The digest of the code that makes an artefact: of what its step reaches, and of nothing else.

Comments, docstrings and types change no digest. Pictures are no part of an artefact's content, so
what draws them counts only where they are asked for.
"""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("features", "recall", "ranking", "funnel")
PICTURES = frozenset({"funnel.evaluation.plots"})
# Of this class each member is reached by itself: a step depends on what it reads of its context.
CONTEXT_MODULE, CONTEXT = "funnel.context", "StepContext"
# A module, and one of its names; None: all of it.
Place = tuple[str, str | None]


@cache
def code_digest(module: str, function: str, pictures: bool = False, root: Path = ROOT) -> str:
    """Digest of a function of a module and of all that it reaches, name by name, in the packages
    under `root`.
    """
    reached = _reached((module, function), root, frozenset() if pictures else PICTURES)
    digest = hashlib.sha256()
    for place in sorted(reached, key=lambda place: (place[0], place[1] or "")):
        digest.update(f"{place[0]}:{place[1] or ''}\n{reached[place]}\n".encode())
    return digest.hexdigest()[:16]


def _reached(start: Place, root: Path, without: frozenset[str]) -> dict[Place, str]:
    """The code of everything that is reached from a name, but for some modules, by place."""
    found: dict[Place, str] = {}
    waiting = [start]
    while waiting:
        module, name = waiting.pop()
        code = _code_of(module, root)
        if code is None or (module, name) in found or module in without:
            continue
        node = code.tree if name is None else code.names.get(name)
        if node is None:
            continue
        found[module, name] = _dump(node)
        waiting += code.uses(node)
        if module.startswith("funnel."):
            attributes = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
            waiting += [(CONTEXT_MODULE, f"{CONTEXT}.{each}") for each in attributes]
    return found


@dataclass(frozen=True)
class _Code:
    """One module: its tree, what it defines by name, and the places that its imports name."""

    module: str
    tree: ast.Module
    root: Path

    @cached_property
    def names(self) -> dict[str, ast.AST]:
        """Definitions and assignments of the module, the context's members each by itself."""
        return {name: part for node in self.tree.body for name, part in self._defined(node)}

    @cached_property
    def imports(self) -> dict[str, Place]:
        """What each imported name of the module stands for, wherever it is imported."""
        return {name: place for node in ast.walk(self.tree) for name, place in self._imported(node)}

    def uses(self, node: ast.AST) -> list[Place]:
        """The places that a node names, types left out."""
        used = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
        places: list[Place] = [(self.module, name) for name in used if name in self.names]
        return places + [self.imports[name] for name in used if name in self.imports]

    def _defined(self, node: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
        if isinstance(node, ast.ClassDef) and (self.module, node.name) == (CONTEXT_MODULE, CONTEXT):
            for member in node.body:
                yield from ((f"{CONTEXT}.{name}", part) for name, part in self._defined(member))
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = (each for target in targets for each in ast.walk(target))
            yield from ((each.id, node) for each in names if isinstance(each, ast.Name))

    def _imported(self, node: ast.AST) -> Iterator[tuple[str, Place]]:
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(PACKAGES):
            return
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            is_module = _path_of(whole, self.root) is not None
            place = (whole, None) if is_module else (str(node.module), alias.name)
            yield alias.asname or alias.name, place


@cache
def _code_of(module: str, root: Path) -> _Code | None:
    path = _path_of(module, root)
    if path is None:
        return None
    tree = _Bare().visit(ast.parse(path.read_text()))
    return _Code(module, tree, root)


def _path_of(module: str, root: Path) -> Path | None:
    folder = root.joinpath(*module.split("."))
    paths = (folder.with_suffix(".py"), folder / "__init__.py")
    return next((path for path in paths if path.exists()), None)


@cache
def _dump(node: ast.AST) -> str:
    return ast.dump(node)


class _Bare(ast.NodeTransformer):
    """A tree without docstrings, types, and imports that only types need."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self._without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._without_docstring(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        return self._without_docstring(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        typing = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if typing else self.generic_visit(node)

    def _without_docstring(self, node: ast.FunctionDef | ast.ClassDef | ast.Module) -> ast.AST:
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            node.body = node.body[1:] or [ast.Pass()]
        return self.generic_visit(node)
