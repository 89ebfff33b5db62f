"""The house rules that a parser can check: one test for each rule, which prints everything that breaks it.

No module of the package is imported here. A rule is a function from modules (dotted name -> source) to offenders, so that
the last test can show that each of them finds what is wrong.
"""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from statistics import median

PACKAGE = Path(__file__).resolve().parents[1] / "custom" / "wardround"
Modules = Mapping[str, str]
Rule = Callable[[Modules], list[str]]

FLOORS = {
    "core": 0,
    "messages": 1,
    **dict.fromkeys(("data", "models"), 2),
    "tasks": 2.5,  # a task says which images are read, and how
    "synthetic": 2.7,
    **dict.fromkeys(("algorithms", "compression", "dp", "reports", "secagg"), 3),
    "aggregation": 3.5,
    "training": 4,
    **dict.fromkeys(("export", "flare"), 5),
    **dict.fromkeys(("jobs", "serving"), 6),
    **dict.fromkeys(("ops", "research"), 7),
    "cli": 8,
    "__main__": 9,
}
HOMES = {
    "dp_accounting": {"dp"},
    "opacus": {"dp", "models"},
    "nvflare": {"flare", "jobs"},
    "nibabel": {"data", "research", "synthetic"},
    "monai": {"models", "tasks"},
    "timm": {"models"},
    "torchvision": {"models"},
    "matplotlib": {"reports"},
    "tenseal": {"secagg"},
    "cryptography": {"secagg", "core", "messages", "ops"},
    "aiohttp": {"serving"},
    "jinja2": {"reports"},
    "joblib": {"research"},
    "distributed": {"research"},
}
# What a module must not reach, however long the way: not by an import at the top, nor by one inside a function.
# The server makes the first weights and draws the report of the run; it trains nothing and reads no patient.
OUTBOUND = (
    "algorithms",
    "data",
    "synthetic",
    "training",
    "jobs",
    "models",
    "reports",
    "serving",
    "tasks",
    "dp.dp_sgd",
    "flare.executor",
    "flare.trainer",
    "flare.site_parts",
)
SERVER = (
    "data",
    "synthetic",
    "training.client",
    "training.evaluation",
    "training.task",
    "training.dp_training",
    "models.per_sample",
    "models.opacus_rows",
    "jobs",
)
NEVERS = {
    "flare.outbound_filter": OUTBOUND,
    "flare.plaintext_messages": (*OUTBOUND, "dp", "secagg"),
    "flare.secagg_server": (*SERVER, "training", "algorithms"),
    # the server of a secure sum has no model
    "aggregation.secagg_run": (*SERVER, "training", "algorithms", "models", "tasks", "reports"),
    "core.stages": ("aggregation", "algorithms", "flare", "training", "messages", "models", "dp", "secagg", "reports"),
    "aggregation.plaintext_run": (*SERVER, "algorithms", "training", "models", "dp", "secagg", "reports"),
    "flare.controller": (*SERVER, "algorithms", "training", "models"),
    "flare.plaintext_server": SERVER,
    # noise knows nothing of masks and encryption, and the other way round
    "dp.dp_sgd": ("secagg.masks", "secagg.packing", "secagg.fixed_point", "secagg.spec", "secagg.bfv"),
    "dp.hospital_dp": ("secagg.masks", "secagg.packing", "secagg.fixed_point", "secagg.spec"),
    "secagg.client": ("dp.hospital_dp", "dp.dp_sgd", "dp.accounting", "dp.releases"),
    "secagg.server": ("dp.hospital_dp", "dp.dp_sgd", "dp.accounting", "dp.releases"),
}
ROOM_NEVERS = {
    # Noise knows nothing of masks and encryption, and the other way round.
    "dp": ("secagg",),
    "secagg": ("dp",),
    # A new column of a report must not widen what leaves a site.
    "messages": ("reports", "training", "models", "data", "dp", "secagg"),
    "core": ("messages",),
    "reports": ("training", "flare", "data"),
    "serving": ("flare",),
    "training": ("flare",),
}
"""What no file of a room may reach, however long the way."""
HEAVY = (
    "torch",
    "monai",
    "timm",
    "torchvision",
    "nibabel",
    "matplotlib",
    "scipy",
    "nvflare",
    "aiohttp",
    "yaml",
    "dp_accounting",
    "opacus",
)
# The last resorts of a site and of the server, without which one hospital's bug ends the job of all.
LAST_RESORT = {"flare.site_parts": 1, "flare.last_resort": 1}
LONGEST = 300


def package() -> dict[str, str]:
    """Return dotted name below wardround -> source; a folder's __init__ is FOLDER.__init__."""
    return {
        ".".join(file.relative_to(PACKAGE).with_suffix("").parts): file.read_text(encoding="utf-8")
        for file in sorted(PACKAGE.rglob("*.py"))
    }


@lru_cache(maxsize=1024)
def parse(source: str) -> ast.Module:
    return ast.parse(source)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import, inside functions too; `from a import b` is a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def executed(tree: ast.Module) -> ast.Module:
    """Return the tree without what stands under `if TYPE_CHECKING`: it is never executed."""
    left = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    return ast.Module(left, [])


def graph(modules: Modules) -> dict[str, set[str]]:
    """Return module -> the modules of the package that it imports."""
    found: dict[str, set[str]] = {}
    for name, source in modules.items():
        wanted = [one.removeprefix("wardround.") for _, one in imports(executed(parse(source))) if "wardround." in one]
        found[name] = {one if one in modules else one.rpartition(".")[0] for one in wanted} & modules.keys() - {name}
    return found


def closure(edges: Mapping[str, set[str]], start: str) -> dict[str, str]:
    """Return everything that a module reaches -> who imports it, on one way from there."""
    came, left = {start: ""}, [start]
    while left:
        now = left.pop()
        for other in sorted(edges.get(now, set()) - came.keys()):
            came[other] = now
            left.append(other)
    return came


def floor(part: str, unknown: float = 99) -> float:
    return FLOORS.get(part, unknown)


def imports_go_down(modules: Modules) -> list[str]:
    wrong = []
    for name, source in modules.items():
        part = name.split(".")[0]
        for line, wanted in imports(parse(source)):
            top, *rest = wanted.split(".")
            other = rest[0] if rest else "__init__"
            if not top:
                wrong.append(f"{name}:{line}: relative import {wanted}")
            elif top == "wardround" and other not in (part, "__version__") and floor(other) >= floor(part, -1):
                wrong.append(f"{name}:{line}: {other} is not below {part}")
    return wrong


def every_room_has_a_floor(modules: Modules) -> list[str]:
    rooms = {name.split(".")[0] for name in modules} - {"__init__"}
    return sorted(f"{room}: in FLOORS or in the package, but not in both" for room in rooms ^ FLOORS.keys())


def libraries_stay_at_home(modules: Modules) -> list[str]:
    return [
        f"{name}:{line}: {wanted} belongs to {sorted(HOMES[top])}"
        for name, source in modules.items()
        for line, wanted in imports(parse(source))
        if (top := wanted.split(".")[0]) in HOMES and name.split(".")[0] not in HOMES[top]
    ]


def no_circles(modules: Modules) -> list[str]:
    edges = graph(modules)
    reached = {name: closure(edges, name) for name in edges}
    return [
        f"{name} -> {other} -> ... -> {name}"
        for name in edges
        for other in sorted(edges[name])
        if name in reached[other]
    ]


def nevers_hold(modules: Modules) -> list[str]:
    edges, wrong = graph(modules), []
    rooms = {
        name: forbidden for name in modules for room, forbidden in ROOM_NEVERS.items() if name.startswith(f"{room}.")
    }
    for name, forbidden in [*NEVERS.items(), *rooms.items()]:
        if name not in modules:
            wrong.append(f"{name}: no such module; give its rule to the one that took over")
            continue
        came = closure(edges, name)
        for reached in came:
            if any(f"{reached}.".startswith(f"{one}.") for one in forbidden):
                way = [reached]
                while came[way[0]]:
                    way.insert(0, came[way[0]])
                wrong.append(" -> ".join(way))
    return wrong


def nothing_heavy_in_init(modules: Modules) -> list[str]:
    return [
        f"{name}:{line}: {wanted}"
        for name, source in modules.items()
        if name.endswith("__init__")
        for line, wanted in imports(parse(source))
        if wanted.split(".")[0] not in sys.stdlib_module_names
    ]


def no_assert(modules: Modules) -> list[str]:
    return [
        f"{name}:{node.lineno}"
        for name, source in modules.items()
        for node in ast.walk(parse(source))
        if isinstance(node, ast.Assert)
    ]


def broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(one is None or ast.unparse(one) in ("Exception", "BaseException") for one in caught)


def no_broad_except(modules: Modules) -> list[str]:
    wrong = []
    for name, source in modules.items():
        handlers = [node for node in ast.walk(parse(source)) if isinstance(node, ast.ExceptHandler)]
        lines = [node.lineno for node in handlers if broad(node)]
        if len(lines) != LAST_RESORT.get(name, 0):
            wrong.append(f"{name}: {lines}, allowed are {LAST_RESORT.get(name, 0)}")
    return wrong


def every_file_says_what_it_is(modules: Modules) -> list[str]:
    return [name for name, source in modules.items() if not ast.get_docstring(parse(source))]


def classes_are_two_deep(modules: Modules) -> list[str]:
    """A class of ours whose parent is ours has no grandparent of ours."""
    nodes = [n for source in modules.values() for n in ast.walk(parse(source)) if isinstance(n, ast.ClassDef)]
    ours = {node.name: [base.id for base in node.bases if isinstance(base, ast.Name)] for node in nodes}
    return [
        f"{name} < {parent} < {other}"
        for name, parents in ours.items()
        for parent in parents
        for other in ours.get(parent, [])
        if other in ours
    ]


def files_are_short(modules: Modules) -> list[str]:
    lengths = {name: len(source.splitlines()) for name, source in modules.items()}
    print(f"{len(lengths)} files, median {median(lengths.values()):.0f} lines, longest {max(lengths.values())}")
    return [f"{name}: {length} lines" for name, length in lengths.items() if length > LONGEST]


def offenders(rule: Rule) -> str:
    return "\n".join(rule(package()))


def test_imports_only_go_down():
    assert offenders(imports_go_down) == ""
    assert offenders(every_room_has_a_floor) == ""


def test_libraries_stay_at_home():
    assert offenders(libraries_stay_at_home) == ""


def test_no_module_imports_itself_by_a_detour():
    assert offenders(no_circles) == ""


def test_the_outbound_filter_and_the_server_never_reach_what_they_must_not():
    assert offenders(nevers_hold) == ""


def test_package_files_import_nothing_heavy():
    assert offenders(nothing_heavy_in_init) == ""
    code = f"import sys, wardround; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_assert():
    assert offenders(no_assert) == ""


def test_no_broad_except():
    assert offenders(no_broad_except) == ""


def test_every_file_says_what_it_is():
    assert offenders(every_file_says_what_it_is) == ""


def test_classes_are_at_most_two_deep():
    assert offenders(classes_are_two_deep) == ""


def test_files_are_short():
    assert offenders(files_are_short) == ""


WRONG: list[tuple[Rule, Modules]] = [
    (imports_go_down, {"models.a": "from wardround.data import cases"}),
    (imports_go_down, {"core.a": "from wardround.messages import statements"}),
    (imports_go_down, {"data.a": "def f():\n    import wardround.training.client"}),
    (imports_go_down, {"data.a": "from . import cases"}),
    (imports_go_down, {"jobs.a": "import wardround"}),
    (imports_go_down, {"new.a": "from wardround.core import errors"}),
    (every_room_has_a_floor, {"new.a": ""}),
    (libraries_stay_at_home, {"training.a": "from nvflare.apis import dxo"}),
    (no_circles, {"a.b": "from wardround.a import c", "a.c": "def f():\n    from wardround.a.b import x"}),
    (nevers_hold, {}),
    (nothing_heavy_in_init, {"a.__init__": "def f():\n    import numpy"}),
    (no_assert, {"a": "def f():\n    assert True"}),
    (no_broad_except, {"a": "try:\n    f()\nexcept (ValueError, Exception):\n    pass"}),
    (no_broad_except, {"a": "try:\n    f()\nexcept:\n    pass"}),
    (no_broad_except, {"flare.last_resort": ""}),
    (every_file_says_what_it_is, {"a": "x = 1"}),
    (classes_are_two_deep, {"a": "class A: pass\nclass B(A): pass", "b": "class C(B): pass"}),
    (files_are_short, {"a": "\n" * (LONGEST + 1)}),
]
RIGHT: list[tuple[Rule, Modules]] = [
    (
        imports_go_down,
        {"flare.a": "import nvflare\nfrom wardround.training import b\nfrom wardround import __version__"},
    ),
    (no_circles, {"a.b": "from wardround.a import c", "a.c": "if TYPE_CHECKING:\n    from wardround.a.b import x"}),
    (no_broad_except, {"a": "try:\n    f()\nexcept ValueError:\n    pass"}),
]


def test_every_rule_finds_what_breaks_it():
    assert [(rule.__name__, modules) for rule, modules in WRONG if not rule(modules)] == []
    assert [(rule.__name__, rule(modules)) for rule, modules in RIGHT if rule(modules)] == []
    detour = {
        "flare.outbound_filter": "from wardround.a import b",
        "a.b": "def f():\n    import wardround.data.c",
        "data.c": "",
    }
    assert "flare.outbound_filter -> a.b -> data.c" in nevers_hold(detour)
    assert {rule for rule, _ in WRONG} == set(RULES)


RULES = (
    imports_go_down,
    every_room_has_a_floor,
    libraries_stay_at_home,
    no_circles,
    nevers_hold,
    nothing_heavy_in_init,
    no_assert,
    no_broad_except,
    every_file_says_what_it_is,
    classes_are_two_deep,
    files_are_short,
)
