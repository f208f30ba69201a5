"""What a library may import, and what may stand in no file of this repository."""

import ast
import importlib
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARIES = ("oct_io", "oct_vjepa", "oct_xla")
SOURCES = sorted([*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("apps/**/*.py")])
WINGS = sorted(path.parent for path in ROOT.glob("packages/*/src/*/*/__init__.py"))
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "packages/*/*.md", "apps/*/*.md")
    for path in ROOT.glob(pattern)
)
PUBLIC = {
    "oct_io": """WINDOWS CachedVolumes OctIoError OctVolume PhantomTree ScanError ScanRecord
        SourceConfig Spacing TreeError Window audit build_cache draw_phantom
        hash_participant load_labels open_cache open_source open_volume read_manifest
        read_participants read_volume resample write_dicom write_phantom_tree""",
    "oct_vjepa": """POOLS Encoder EncoderConfig Jepa JepaBatch JepaConfig MaskSetConfig
        MaskingConfig Masks Predictor PredictorConfig ProbeResult ScheduleConfig Teacher
        WeightsError axial_profile embed_volumes encoder_config load_model paired_difference
        pool_tokens probe sample_masks""",
    "oct_xla": """CheckpointError Checkpoints DeviceError Feed FeedConfig FeedError FitResult
        Journal LoopConfig NonFiniteError Objective OctXlaError RunFolder
        RunFolderError Runtime Sink WandbSink claim_run_folder fit objective_tensors
        pick_runtime read_checkpoint read_rows sample_seed write_provenance""",
}
"""What other projects import; a name that goes is a promise broken."""
LOADED = """
import json, sys
import {library}
print(json.dumps(sorted({{name.split(".")[0] for name in sys.modules}})))
"""


def modules_after_importing(library: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after `import library`."""
    out = subprocess.run(
        [sys.executable, "-c", LOADED.format(library=library)],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(json.loads(out.stdout))


@cache
def imports_of(path: Path) -> set[str]:
    """Top-level modules that a file names in an import, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def tracked() -> list[Path]:
    """Every file that git knows; skips where this is no checkout."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize(
    ("library", "never"),
    [
        ("oct_io", {"torch", "torch_xla", "hydra", "omegaconf", "oct_vjepa", "oct_xla", "monai"}),
        ("oct_vjepa", {"torch_xla", "hydra", "omegaconf", "oct_io", "oct_xla", "sklearn"}),
        ("oct_xla", {"torch_xla", "hydra", "omegaconf", "oct_io", "oct_vjepa", "wandb"}),
    ],
)
def test_importing_a_library_loads_neither_its_siblings_nor_what_it_may_not_use(library, never):
    loaded = modules_after_importing(library)
    assert library in loaded
    assert not loaded & never


@pytest.mark.parametrize("library", LIBRARIES)
def test_importing_a_library_does_not_wait_for_torch_until_a_name_needs_it(library):
    assert not modules_after_importing(library) & {"torch", "matplotlib", "sklearn"}


@pytest.mark.parametrize("app", ["pretrain", "finetune"])
@pytest.mark.parametrize("asked", [("--cfg", "job"), ("--help",), ("data.rot=here",)])
def test_a_command_line_is_read_without_torch(app, asked):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", f"apps/{app}", *asked],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == (2 if asked[0].startswith("data") else 0), done.stderr[-500:]
    loaded = set(re.findall(r"\| +(\w+)$", done.stderr, flags=re.MULTILINE))
    assert "hydra" in loaded
    assert not loaded & {"torch", "torch_xla", "sklearn", "matplotlib"}


@pytest.mark.parametrize("library", LIBRARIES)
def test_no_file_of_a_library_imports_a_sibling_or_the_apps_tools(library):
    others = {*LIBRARIES, "hydra", "omegaconf", "oct_launch", "oct_report"} - {library}
    for path in ROOT.glob(f"packages/*/src/{library}/**/*.py"):
        assert not imports_of(path) & others, path


def test_torch_xla_is_imported_by_one_file_of_a_library():
    """oct_vjepa asks it for a kernel and for recomputation, once a tensor lies on such a device."""
    users = [path.name for path in SOURCES if "torch_xla" in imports_of(path)]
    assert users == ["attention.py", "xla.py"]


def test_only_the_apps_and_what_starts_them_join_the_three_libraries():
    joining = {
        path.relative_to(ROOT).parts[1] for path in SOURCES if imports_of(path) >= set(LIBRARIES)
    }
    assert joining == {"pretrain", "judge", "launch"}


def test_what_the_apps_share_knows_neither_an_app_nor_each_other():
    beside = {
        path.stem for app in ("pretrain", "finetune") for path in ROOT.glob(f"apps/{app}/*.py")
    }
    assert "watching" in beside
    for package, other in (("launch", "oct_report"), ("report", "oct_launch")):
        for path in ROOT.glob(f"apps/{package}/src/**/*.py"):
            assert not imports_of(path) & (beside | {other}), path


@pytest.mark.parametrize("library", LIBRARIES)
def test_no_public_name_is_gone(library):
    module = importlib.import_module(library)
    assert set(module.__all__) >= set(PUBLIC[library].split())


@pytest.mark.parametrize("wing", WINGS, ids=lambda path: f"{path.parent.name}.{path.name}")
def test_a_wing_says_who_lives_there_and_holds_at_most_15_modules(wing):
    about = ast.get_docstring(ast.parse((wing / "__init__.py").read_text()))
    assert about is not None
    assert 2 < len(about.splitlines()) <= 12, "a few lines"
    assert len([path for path in wing.glob("*.py") if path.stem != "__init__"]) <= 15


def test_tests_stand_as_the_wings_do():
    for library in LIBRARIES:
        tests = ROOT / "packages" / library.replace("_", "-") / "tests"
        folders = {path.parent.name for path in tests.glob("*/test_*.py")}
        assert folders <= {wing.name for wing in WINGS if wing.parent.name == library}


def test_every_link_of_a_page_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), (page.relative_to(ROOT), target)


def test_every_name_with_dots_in_a_page_or_docstring_is_there():
    for path in (*PAGES, *SOURCES):
        for name in re.findall(r"`(oct_(?:io|vjepa|xla)(?:\.\w+)+)", path.read_text()):
            assert find_name(name), (path.relative_to(ROOT), name)


def find_name(dotted: str) -> bool:
    """Whether a module, or what stands in one, has this name."""
    library, *parts = dotted.split(".")
    found = importlib.import_module(library)
    for number, part in enumerate(parts, start=2):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(dotted.split(".")[:number]))
            except ModuleNotFoundError:
                return False
        found = getattr(found, part)
    return True


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_exports_at_most_25_names_and_each_of_them_is_there(library):
    module = importlib.import_module(library)
    assert 0 < len(module.__all__) <= 25
    assert all(getattr(module, name) is not None for name in module.__all__)
    assert (Path(module.__file__).parent / "py.typed").exists()


def test_the_encoder_library_knows_volumes_and_no_retina():
    for path in ROOT.glob("packages/oct-vjepa/src/**/*.py"):
        found = re.search(r"(?i)retina|ophthalm|dicom|macula|fundus", path.read_text())
        assert not found, (path, found)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_says_what_it_is_and_stays_short(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "no docstring on top"
    assert len(text.splitlines()) <= 400
    assert path.stem not in ("utils", "util", "common", "helpers", "misc")


def test_nothing_that_we_read_can_run_code():
    for path in SOURCES:
        text = path.read_text()
        assert not imports_of(path) & {"pickle", "dill", "joblib", "shelve", "marshal"}, path
        assert "allow_pickle=True" not in text, path
        assert "weights_only=False" not in text, path
        for call in re.findall(r"torch\.load\((.*)", text):
            assert "weights_only=True" in call, path


def test_no_file_names_a_folder_of_one_machine_or_a_host_of_a_package_registry():
    # Spelt in parts, so that this file does not name them either.
    machine = ["/" + "work" + "/", "/" + "home" + "/[a-z]", "/" + "root" + "/"]
    hosts = ["files." + "pythonhosted", "pypi" + r"\.org/simple", "artifact" + "ory", "dev" + "pi"]
    pattern = re.compile("|".join(machine + hosts))
    for path in tracked():
        if path.suffix in (".png", ".npz", ".dcm", ".jpg"):
            continue
        found = pattern.search(path.read_text(errors="replace"))
        assert not found, (path.relative_to(ROOT), found)


def test_what_a_run_makes_is_not_in_the_repository():
    for path in tracked():
        relative = path.relative_to(ROOT)
        assert relative.parts[0] != "runs", relative
        assert path.suffix not in (".safetensors", ".dcm", ".u8", ".pt", ".ckpt"), relative
        assert path.stat().st_size < 2_000_000, relative
