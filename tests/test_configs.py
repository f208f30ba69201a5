"""Every configuration that we ship composes, and every value in it is one the code accepts."""

import re
import runpy
import sys
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from oct_io.catalog.selection import REGIONS
from oct_io.datasets.registry import RECIPES
from oct_io.scan.protocols import DEVICES
from oct_io.space.windows import find_window
from oct_judge.closing import question_of
from oct_judge.touches import way_of
from oct_launch import Mistake
from oct_launch.sweep import split_jobs
from oct_vjepa.presets.choices import ENCODERS, MASKINGS, OBJECTIVES
from oct_vjepa.presets.runs import PRESETS
from omegaconf import OmegaConf

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
REAL = ["folder", *sorted(path.stem for path in (CONFIGS / "data").glob("aireadi*.yaml"))]
GIVEN = {name: ["data.root=somewhere"] for name in [*REAL, "bscans", *RECIPES]}
ON_REAL_SCANS = ["data=aireadi", "data.root=somewhere"]
MEANT_FOR = {
    "multi_domain": ON_REAL_SCANS,
    "multi_domain_dense": ON_REAL_SCANS,
    "bscans": ["data=bscans", "data.root=somewhere"],
    "continued": ON_REAL_SCANS,
    "continued_dense": ON_REAL_SCANS,
}
NAMED = {"encoder": ENCODERS, "masking": MASKINGS, "objective": OBJECTIVES, "preset": PRESETS}
BENCH = "bench"  # leaves no encoder
BESIDE = ("settings", "question")  # modules beside the apps


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def schemas():
    """Register what the apps register, without running them."""
    store, repo, path = ConfigStore.instance(), dict(ConfigStore.instance().repo), list(sys.path)
    for app in ("pretrain", "finetune"):
        sys.path.insert(0, str(ROOT / "apps" / app))
        runpy.run_path(str(ROOT / "apps" / app / "__main__.py"), run_name=app)
        sys.path[:] = path
        for name in BESIDE:
            sys.modules.pop(name, None)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()
    store.repo = repo


def build_choice(group: str) -> str:
    """What the default run chooses in a group, after its preset."""
    tree = compose("pretrain", return_hydra_config=True)
    return tree.hydra.runtime.choices[group]


@cache
def composed(app: str, *overrides: str):
    return compose(app, overrides=list(overrides))


def build(app: str, *overrides: str):
    return OmegaConf.to_object(composed(app, *overrides))


@pytest.mark.parametrize("experiment", names("experiment"))
def test_an_experiment_is_a_valid_run_and_has_its_own_name(experiment):
    config = build("pretrain", f"experiment={experiment}")
    assert config.name != build("pretrain").name
    assert config.run_dir == f"runs/{config.name}"


@pytest.mark.parametrize("experiment", ["", *names("experiment")])
def test_the_window_of_an_experiment_is_what_its_encoder_takes(experiment):
    chosen = [f"experiment={experiment}"] if experiment else []
    config = build("pretrain", *chosen, *MEANT_FOR.get(experiment, []))
    assert find_window(config.data.window).shape == config.encoder.input_shape


def test_what_an_experiment_sets_can_still_be_set_on_the_command_line():
    assert build("pretrain", "experiment=smoke", "loop.steps=7").loop.steps == 7
    assert build("pretrain", "experiment=smoke").loop.steps == 12


@pytest.fixture
def pretraining_app(monkeypatch):
    """What the app's own module has by name."""
    monkeypatch.syspath_prepend(str(ROOT / "apps" / "pretrain"))
    yield runpy.run_path(str(ROOT / "apps" / "pretrain" / "__main__.py"))
    sys.modules.pop("settings", None)


@pytest.fixture
def spell_out(pretraining_app):
    """What the app makes of its own words on the command line."""
    return pretraining_app["spell_out"]


@pytest.fixture
def add_fitting(pretraining_app):
    """What the app adds to what is typed."""
    return pretraining_app["add_fitting"]


@pytest.mark.parametrize("experiment", ["continued", "continued_dense"])
def test_a_grid_of_momenta_is_a_run_each_of_an_experiment_that_continues(spell_out, experiment):
    sweep, *overrides = spell_out(["grid=momentum", f"experiment={experiment}", "init=vitl.pt"])
    assert sweep == "-m"
    fixed, jobs = split_jobs(overrides)
    made = [build("pretrain", *fixed, *job.overrides, *ON_REAL_SCANS) for job in jobs]
    kept = [(one.objective.ema_kind, one.objective.ema_start, one.initial) for one in made]
    momenta = (0.99, 0.997, 0.999, 0.9995)
    assert kept == [("constant", momentum, "vitl.pt") for momentum in momenta]
    assert {one.schedule.cooldown_fraction for one in made} == {1.0}
    with pytest.raises(Mistake, match="grid=width: must be one of momentum"):
        spell_out(["grid=width"])


def test_further_sets_can_be_swept(spell_out):
    fixed, jobs = split_jobs(spell_out(["more.b=kermany,octdl", "more.b.root=x"]))
    assert [job.name for job in jobs] == ["b=kermany", "b=octdl"]
    kept = [build("pretrain", *fixed, *job.overrides).more["b"] for job in jobs]
    assert [(one.name, one.root) for one in kept] == [("b", "x")] * 2
    assert [one.recipe for one in kept] == ["kermany", "octdl"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_brings_the_masks_that_it_was_made_for(add_fitting, name):
    config = build("pretrain", *add_fitting([f"objective={name}", "loop.steps=7"]))
    assert config.objective == OBJECTIVES[name].config()
    assert config.masking == OBJECTIVES[name].masking.config()


def test_the_masks_of_an_objective_are_those_of_its_own_paper_or_experiment():
    meant = {name: one.masking.name for name, one in OBJECTIVES.items()}
    assert meant["vjepa2_voxels_smoke"] == build_choice("masking") == "mae"
    blocks = ("vjepa2", "vjepa21_smoke", "vjepa21_voxels", "salt_smoke", "lejepa", "dino_smoke")
    assert {meant[name] for name in blocks} == {"multiblock"}
    assert {meant[name] for name in ("mae", "mae_smoke", "mae_spectral_smoke")} == {"mae"}
    assert meant["predecessor_asis"] == meant["predecessor_fixed"] == "predecessor"


def test_masks_that_the_command_line_chooses_stay_as_they_are(add_fitting):
    for masks in ("masking=foreground", "masking=mae"):
        given = ["objective=vjepa2_smoke", masks]
        assert add_fitting(given) == given
        assert add_fitting(given[::-1]) == given[::-1]
    swept = ["-m", "objective=vjepa2_smoke", "masking=mae,foreground"]
    assert add_fitting(swept) == swept


@pytest.mark.parametrize(
    "whole", [*(f"experiment={one}" for one in names("experiment")), "preset=base_oct", "plan=x"]
)
def test_a_whole_run_by_name_keeps_its_masks_whatever_the_objective(add_fitting, whole):
    for given in (["objective=mae_smoke", whole], [whole, "objective=vjepa2"]):
        assert add_fitting(given) == given


def test_an_objective_without_a_name_and_none_at_all_leave_the_masks_as_they_are(add_fitting):
    for given in (["objective=mine"], ["loop.steps=3"], []):
        assert add_fitting(given) == given


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        (("salt", "multiblock"), "objective=salt masking=multiblock, made for it"),
        (("mae", "multiblock"), "objective=mae masking=multiblock, made for masking=mae"),
        (("mine", "mae"), "objective=mine masking=mae"),
        (("jepa_schema", ""), ""),
    ],
)
def test_a_run_says_which_masks_it_has_and_which_its_objective_was_made_for(
    pretraining_app, choices, said
):
    del pretraining_app  # it makes settings.py known
    from settings import tell_masks

    assert tell_masks(dict(zip(("objective", "masking"), choices, strict=True))) == said


def test_where_and_how_it_runs_is_named_in_short(spell_out):
    made = build("pretrain", *spell_out(["parallel=fsdp", "profile=10:15"]))
    assert (made.runtime.parallel, made.loop.profile) == ("fsdp", "10:15")


def test_a_teacher_is_named_in_short(spell_out):
    made = build("pretrain", *spell_out(["objective=salt", "teacher=runs/mae/encoder"]))
    assert made.objective.teacher == "runs/mae/encoder"


def test_the_files_of_several_seeds_lie_apart():
    one, other = (build("pretrain", "experiment=phantom_lesions", f"seed={n}") for n in (0, 1))
    assert one.run_dir != other.run_dir
    assert (one.feed.seed, other.feed.seed) == (0, 1)
    assert one.data.root == other.data.root, "the same people, other weights"


@pytest.mark.parametrize("group", ["augment", "data", "runtime", "tracking"])
def test_every_choice_of_a_group_is_valid(group):
    assert names(group)
    for name in names(group):
        build("pretrain", f"{group}={name}", *(GIVEN.get(name, []) if group == "data" else []))


@pytest.mark.parametrize("group", ["data", "evaluation", "runtime", "task"])
def test_every_choice_of_a_group_is_valid_for_an_evaluation(group):
    for name in names(group):
        build("finetune", f"{group}={name}", *(GIVEN.get(name, []) if group == "data" else []))


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in [*NAMED][:3] for name in NAMED[group]]
)
def test_what_has_a_name_in_oct_vjepa_is_chosen_by_it(group, name):
    assert getattr(build("pretrain", f"{group}={name}"), group) == NAMED[group][name].config()


@pytest.mark.parametrize("group", NAMED)
def test_a_name_of_oct_vjepa_is_no_file_as_well(group):
    assert not set(names(group)) & set(NAMED[group])


@pytest.mark.parametrize("experiment", [one for one in names("experiment") if one != BENCH])
def test_an_evaluation_of_an_experiment_reads_its_data_and_the_encoder_that_it_left(experiment):
    given = MEANT_FOR.get(experiment, [])
    made = build("pretrain", f"experiment={experiment}", *given)
    asked = build("finetune", f"evaluation={experiment}", *given)
    assert asked.weights == f"{made.run_dir}/encoder"
    assert asked.data == made.data
    assert asked.run_dir == f"{made.run_dir}-finetune"


def test_every_experiment_has_an_evaluation_and_no_other():
    assert names("evaluation") == [one for one in names("experiment") if one != BENCH]


@pytest.mark.parametrize("name", ["", *PRESETS])
def test_a_preset_sets_all_that_it_says(name):
    config = build("pretrain", *([f"preset={name}"] if name else []))
    preset = PRESETS[name or "cpu_smoke"]
    assert config.encoder == preset.encoder.config()
    assert config.masking == preset.masking.config()
    assert config.objective == preset.objective.config()
    assert config.schedule == preset.schedule_config()
    trained = {"batch_size": config.feed.batch_size}
    trained |= {key: getattr(config.loop, key) for key in preset.training.keys() - {"batch_size"}}
    assert trained == {key: given.value for key, given in preset.training.items()}


def test_what_stands_on_the_command_line_is_above_a_preset():
    config = build("pretrain", "experiment=multi_domain", "encoder=small", "loop.steps=7")
    assert config.encoder == ENCODERS["small"].config()
    assert config.objective == OBJECTIVES["vjepa2"].config()
    assert (config.loop.steps, config.feed.batch_size) == (7, 32)


def test_a_file_of_a_user_may_begin_with_a_name_of_oct_vjepa(tmp_path):
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "mine.yaml").write_text("defaults: [small, _self_]\ndepth: 5\n")
    (tmp_path / "objective").mkdir()
    (tmp_path / "objective" / "mine.yaml").write_text("defaults: [mae_smoke, _self_]\n")
    where = f"hydra.searchpath=[file://{tmp_path}]"
    config = build("pretrain", where, "encoder=mine", "objective=mine")
    small = ENCODERS["small"].config()
    assert (config.encoder.depth, config.encoder.width) == (5, small.width)
    assert config.objective == OBJECTIVES["mae_smoke"].config()


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS))
)
def test_a_file_says_on_top_what_it_is_for(path):
    assert [line for line in path.read_text().splitlines()[:2] if re.match("# [^@]", line)]


@pytest.mark.parametrize("task", names("task"))
def test_every_task_is_valid(task):
    assert build("finetune", f"task={task}").task.column


def test_both_apps_read_the_same_volumes_from_a_data_set_and_agree_on_the_encoder():
    pretrain, finetune = build("pretrain"), build("finetune")
    assert pretrain.data == finetune.data
    assert finetune.weights == f"{pretrain.run_dir}/encoder"


def test_the_end_of_a_run_asks_as_finetune_does_which_is_one_look_at_the_test():
    run = build("pretrain")
    for task in run.data.label_columns:
        asked = question_of(run.probe, task, seed=run.seed)
        assert way_of(asked) == way_of(build("finetune", f"task={task}"))


def test_the_default_run_asks_for_every_label_that_its_phantom_shows():
    data = build("pretrain").data
    assert data.label_columns == ["thin", "fluid", "drusen", "folded"]
    assert data.phantom is not None
    assert data.phantom.arrangements == ("folded",)
    assert data.excluded_splits == ["test"]


def test_only_made_up_data_is_drawn_where_real_data_is_read():
    for name, given in GIVEN.items():
        assert build("pretrain", f"data={name}", *given).data.phantom is None


def test_single_domains_are_one_known_device_each_and_the_multi_domain_is_all_of_them():
    single = [build("pretrain", f"data={name}", *GIVEN[name]).data for name in REAL[2:]]
    several = [data for data in single if len(data.devices) > 1]
    assert [data.name for data in several] == ["aireadi_multi_domain"]
    ones = [data for data in single if len(data.devices) == 1]
    assert sorted(data.devices[0] for data in ones) == sorted(several[0].devices)
    assert set(several[0].devices) <= set(DEVICES)
    assert {region for data in ones for region in data.regions} == set(several[0].regions)
    assert set(several[0].regions) <= set(REGIONS)
    assert len({data.cache for data in single}) == len(single), "each has a cache of its own"


@pytest.mark.parametrize("name", RECIPES)
def test_a_public_set_has_a_file_that_names_its_recipe_and_an_encoder_that_takes_its_window(name):
    recipe, data = RECIPES[name], build("pretrain", f"data={name}", *GIVEN[name]).data
    assert (data.name, data.recipe) == (name, name)
    assert set(data.label_columns) <= set(recipe.labels)
    encoder = "bscan_tiny" if recipe.bscans else "cpu_smoke"
    taken = build("pretrain", f"encoder={encoder}").encoder.input_shape
    assert find_window(data.window).shape == taken


def test_a_misspelt_key_is_refused_by_name():
    with pytest.raises(ConfigCompositionException, match="wdith"):
        build("pretrain", "encoder.wdith=3")


def test_a_stray_key_cannot_be_added_either():
    with pytest.raises(AttributeError, match="extra"):
        build("pretrain", "+encoder.extra=3")


def leaves(config, prefix=""):
    """Dotted names of all settings below a dataclass."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


@pytest.mark.parametrize("app", ["pretrain", "finetune"])
def test_every_setting_is_read_by_some_code_or_by_another_setting(app):
    paths = [*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("apps/**/*.py")]
    paths += CONFIGS.rglob("*.yaml")
    text = "\n".join(path.read_text() for path in paths)
    for name in leaves(build(app)):
        field = name.rsplit(".", 1)[-1]
        assert re.search(rf"\.{field}\b(?!\s*=[^=])", text), f"nothing reads {name}"
