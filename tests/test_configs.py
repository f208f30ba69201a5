"""Every configuration that we ship composes, and every value in it is one the code accepts."""

import runpy
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
GIVEN = {"folder": ["data.root=somewhere"], "aireadi": ["data.root=somewhere"]}


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def schemas():
    """Register what the apps register, without running them."""
    import sys

    for app in ("pretrain", "finetune"):
        sys.path.insert(0, str(ROOT / "apps" / app))
        runpy.run_path(str(ROOT / "apps" / app / "__main__.py"), run_name=app)
        sys.path.remove(str(ROOT / "apps" / app))
        for name in ("report", "samples"):
            sys.modules.pop(name, None)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


def build(app: str, *overrides: str):
    return OmegaConf.to_object(compose(app, overrides=list(overrides)))


@pytest.mark.parametrize("experiment", names("experiment"))
def test_an_experiment_is_a_valid_run_and_has_its_own_name(experiment):
    config = build("pretrain", f"experiment={experiment}")
    assert config.name != build("pretrain").name
    assert config.run_dir == f"runs/{config.name}"


@pytest.mark.parametrize("group", ["data", "masking", "objective", "runtime", "tracking"])
def test_every_choice_of_a_group_is_valid(group):
    for name in names(group):
        build("pretrain", f"{group}={name}", *(GIVEN.get(name, []) if group == "data" else []))


@pytest.mark.parametrize("encoder", names("encoder"))
def test_every_encoder_is_valid(encoder):
    assert build("pretrain", f"encoder={encoder}").encoder.tokens > 0


@pytest.mark.parametrize("task", names("task"))
def test_every_task_is_valid(task):
    assert build("finetune", f"task={task}").task.column


def test_a_misspelt_key_is_refused_by_name():
    with pytest.raises(ConfigCompositionException, match="wdith"):
        build("pretrain", "encoder.wdith=3")


def test_a_stray_key_cannot_be_added_either():
    with pytest.raises(ConfigCompositionException, match="extra"):
        build("pretrain", "+encoder.extra=3")
