"""The package as a whole: what it imports, what it names, what its README promises."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib

import pytest
import torch

import torchgmm

# what only an extra brings
EXTRAS = (
    "sklearn", "scipy", "matplotlib", "tqdm", "safetensors", "pyarrow", "jsonargparse", "yaml",
    "PIL", "pandas", "lightning", "triton",
)  # fmt: skip


def in_a_fresh_python(code, *options):
    done = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


USE = """
import torch
before = set(sys.modules)
import torchgmm as tg
mixture = tg.GaussianMixture(2)
result = tg.fit(mixture, torch.randn(50, 2), generator=0)
mixture.sample((3,)), mixture.bic(torch.randn(5, 2)), mixture.predict([[0.0, 1.0]]), str(result)
for name in tg.__all__:
    getattr(tg, name)
"""


def test_using_it_imports_nothing_but_torch_and_numpy():
    code = f"import sys\n{USE}\nprint(*{{m.split('.')[0] for m in set(sys.modules) - before}})"
    brought = set(in_a_fresh_python(code).split())
    foreign = brought - set(sys.stdlib_module_names) - {"torch", "numpy", "torchgmm"}
    # what torch and numpy.random themselves import when they are worked with
    foreign -= {"sympy", "mpmath", "typing_extensions", "opt_einsum", "fsspec", "jinja2"}
    foreign -= {"cython_runtime"}
    assert not foreign & set(EXTRAS)
    assert foreign <= {m for m in foreign if m.startswith("_")}


def test_importing_it_does_not_wait_for_torch():
    loaded = in_a_fresh_python("import sys, torchgmm; print('torch' in sys.modules)")
    assert loaded == "False"


def test_importing_it_loads_one_room():
    code = "import sys, torchgmm; print(*(m for m in sys.modules if m.startswith('torchgmm')))"
    assert in_a_fresh_python(code) == "torchgmm"


# of torch: the slow ones to load, none of which a fit needs (seconds, more than torch itself)
SLOW = ("torch._dynamo", "torch._inductor", "torch.distributed.fsdp", "torch.export", "torch.onnx")


def test_the_module_and_the_fit_load_nothing_slow():
    # and thereby little: their time is that of some hundred small files (`-X importtime` shows it)
    code = """
import sys, torch
before = set(sys.modules)
import torchgmm as tg
tg.GaussianMixture, tg.fit
print(*(set(sys.modules) - before))
"""
    brought = in_a_fresh_python(code).split()
    rooms = {m.removeprefix("torchgmm.").split(".")[0] for m in brought if "torchgmm." in m}
    assert not rooms & {"cli", "sklearn", "plots", "lightning", "images", "reduction", "selection"}
    assert {m for m in brought if m.startswith(SLOW)} == set()
    assert {m.split(".")[0] for m in brought} - set(sys.stdlib_module_names) == {"torchgmm"}


def test_every_optional_package_that_is_missing_names_its_extra():
    block = (
        "import sys\nfor m in ('safetensors', 'tqdm', 'pyarrow', 'sklearn', 'PIL', 'matplotlib'):\n"
        "    sys.modules[m] = None\n"
        "import io, torch, torchgmm as tg\n"
        "from torchgmm.data import Bundled, ImagePatches, read_table\n"
        "terminal = io.StringIO(); terminal.isatty = lambda: True\n"
        "calls = {\n"
        "  'save': lambda: tg.save(tg.GaussianMixture(2, 2), '/tmp/never'),\n"
        "  'load': lambda: tg.load('/tmp/never'),\n"
        "  'progress': lambda: tg.GaussianMixture(2).fit(torch.randn(9, 2),\n"
        "      observers=[tg.Progress(terminal)]),\n"
        "  'bundled': lambda: Bundled('iris').source(),\n"
        "  'patches': lambda: ImagePatches('china.jpg').source(),\n"
        "}\n"
        "for name, call in calls.items():\n"
        "    try: call()\n"
        "    except tg.TorchGMMError as e: print(name, isinstance(e, ImportError), e)\n"
    )
    lines = in_a_fresh_python(block).splitlines()
    assert len(lines) == 5
    extras = project()["optional-dependencies"]
    for line in lines:
        assert " True " in line
        extra = re.search(r"pip install '\.\[(\w+)\]'", line)
        assert extra, line
        assert extra[1] in extras


def project():
    from tests.conftest import ROOT

    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


# names ------------------------------------------------------------------------------------------


def test_the_table_of_names_agrees_with_what_type_checkers_see():
    tree = ast.parse(inspect.getsource(torchgmm))
    block = next(
        node for node in tree.body
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    )  # fmt: skip
    seen = {
        alias.name: node.module
        for node in block.body if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name  # the form that exports
    }  # fmt: skip
    assert seen == torchgmm._ROOM
    assert list(torchgmm._ROOM) == sorted(torchgmm._ROOM)
    assert torchgmm.__all__ == ["__version__", *torchgmm._ROOM]
    assert dir(torchgmm) == sorted(torchgmm.__all__)


def test_every_public_name_is_that_of_its_room():
    for name, room in torchgmm._ROOM.items():
        module = importlib.import_module(f"torchgmm.{room}")
        assert getattr(torchgmm, name) is getattr(module, name)
        assert name in module.__all__


def test_no_public_name_is_hidden_by_a_room_of_the_same_name():
    # importing torchgmm.x makes it an attribute of the package, before __getattr__ is asked
    rooms = {module.name for module in pkgutil.iter_modules(torchgmm.__path__)}
    assert not rooms & set(torchgmm._ROOM)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'torchgmm' has no attribute 'GaussianMixtures'"):
        torchgmm.GaussianMixtures  # noqa: B018


def modules():
    found = pkgutil.walk_packages(torchgmm.__path__, "torchgmm.")
    return [m.name for m in found if not m.name.endswith("__main__")]


@pytest.mark.parametrize("name", modules())
def test_every_module_says_what_it_offers(name):
    if name.startswith(("torchgmm.kernels.triton_", "torchgmm.kernels.tuned")):
        pytest.importorskip("triton", reason="Triton is not installed")
    module = importlib.import_module(name)
    assert module.__doc__
    if not hasattr(module, "__all__"):
        pytest.fail(f"{name} has no __all__")
    for offered in module.__all__:
        assert hasattr(module, offered), offered


def test_every_error_is_one_of_ours():
    from torchgmm import errors

    for name in errors.__all__:
        thing = getattr(errors, name)
        assert issubclass(thing, (errors.TorchGMMError, UserWarning))
        assert thing.__doc__


def test_the_version_is_that_of_the_project():
    assert torchgmm.__version__ == project()["version"]


# README -----------------------------------------------------------------------------------------


def fences(root, language, page="README.md"):
    text = (root / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


PAGES = ("README.md", "docs/plots.md", "docs/many_processes.md")


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_the_pages_runs(page, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = fences(root, "python", page)
    assert blocks
    names = {}  # a reader goes from one to the next
    for block in blocks:
        exec(compile(block, page, "exec"), names)


def test_the_commands_of_the_readme_exist(root):
    commands = [line for block in fences(root, "sh") for line in block.splitlines()]
    files = re.findall(r"\b(?:configs|notebooks)/[\w./-]+", "\n".join(commands))
    assert "configs/patches.yaml" in files
    for file in files:
        assert (root / file).exists(), file
    subcommands = set(re.findall(r"\btorchgmm (\w+)", "\n".join(commands)))
    assert {"fit", "show", "score", "predict", "sample"} <= subcommands
    assert project()["scripts"]["torchgmm"] == "torchgmm.cli:main"
    for extra in re.findall(r'"\.\[(\w+)\]"', "\n".join(commands)):
        assert extra in project()["optional-dependencies"], extra
    assert (root / "constraints.txt").exists()


def test_the_files_that_pages_link_to_exist(root):
    for page in (root / "README.md", *(root / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)


def test_every_family_stands_in_the_readme(root):
    text = (root / "README.md").read_text()
    for family in torchgmm.families():
        assert f'`"{family}"`' in text, family


def test_what_is_found_is_a_line_at_a_prompt():
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    mixture = torchgmm.GaussianMixture(2)
    mixture.fit(x, generator=0)
    for found in (
        torchgmm.select(x, [1, 2], "full", generator=0),
        torchgmm.cluster(mixture, x),
        torchgmm.calibrate(mixture, x),
        torchgmm.bootstrap_test(x, 1, n_replicates=3, generator=0),
    ):
        assert repr(found) == f"<{type(found).__name__} {found}>"
        assert "\n" not in repr(found)
