"""Finds the names that the repository's Python files import and use."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted(
    file.relative_to(ROOT).as_posix()
    for folder in ("alexnet_tf", "tools", "tests")
    for file in ROOT.glob(f"{folder}/**/*.py")
)


def module_of(path):
    """Returns the module name of a file such as "alexnet_tf/data/pipeline.py"."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def is_at_or_below(name, above):
    """Returns whether a dotted name is `above` or a part of it."""
    return name == above or name.startswith(f"{above}.")


class Uses(ast.NodeVisitor):
    """Collects every dotted name that a file imports or uses, resolved to its full name.

    `found` is a list of tuples: line, name, the outermost enclosing function or "", whether it is an import.
    """

    def __init__(self, path, tree):
        self.found = []
        self._package = module_of(path) if path.endswith("__init__.py") else module_of(path).rpartition(".")[0]
        self._names = {}
        self._function = ""
        # Twice, because a name can be used above the line that imports it.
        self.visit(tree)
        self.found = []
        self.visit(tree)

    def _add(self, node, name, is_import=False):
        self.found.append((node.lineno, name, self._function, is_import))

    def visit_FunctionDef(self, node):
        outer, self._function = self._function, self._function or node.name
        self.generic_visit(node)
        self._function = outer

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Import(self, node):
        for alias in node.names:
            self._add(node, alias.name, is_import=True)
            first = alias.name.partition(".")[0]
            self._names[alias.asname or first] = alias.name if alias.asname else first

    def visit_ImportFrom(self, node):
        module = node.module or ""
        if node.level:
            above = self._package.split(".")[: len(self._package.split(".")) - node.level + 1]
            module = ".".join([*above, *([module] if module else [])])
        for alias in node.names:
            self._add(node, f"{module}.{alias.name}", is_import=True)
            self._names[alias.asname or alias.name] = f"{module}.{alias.name}"

    def dotted(self, node):
        if isinstance(node, ast.Name):
            return self._names.get(node.id)
        above = self.dotted(node.value) if isinstance(node, ast.Attribute) else None
        return above and f"{above}.{node.attr}"

    def visit_Attribute(self, node):
        name = self.dotted(node)
        if name:
            self._add(node, name)
        else:
            self.generic_visit(node)

    def visit_Name(self, node):
        if node.id in self._names:
            self._add(node, self._names[node.id])

    def visit_Subscript(self, node):
        name = self.dotted(node.value)
        if name and not isinstance(node.ctx, ast.Load):
            self._add(node, f"{name}.__setitem__")
        self.generic_visit(node)

    def visit_Call(self, node):
        name = self.dotted(node.func) or getattr(node.func, "id", "")
        if name in ("importlib.import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
            self._add(node, node.args[0].value, is_import=True)
        self.generic_visit(node)
