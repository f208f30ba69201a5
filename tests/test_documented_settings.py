"""What the pages tell to type is there: a key of a command, and of the table of old keys."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")),
         *sorted((ROOT / "apps").glob("*/README.md"))]  # fmt: skip
KEYS = ROOT / "docs" / "finetune-keys.md"
GIVEN = {
    "finetune": {"encoder", "experiment"},
    "pretrain": {"encoder", "experiment", "plan", "grid", "teacher"},
}
"""What the command line takes beside settings and groups."""
SWEPT = {
    f"sweep.{one}"
    for one in (
        "jobs",
        "on",
        "timeout_min",
        "gpus_per_node",
        "cpus_per_task",
        "mem_gb",
        "slurm_partition",
    )
}
WORD = re.compile(r"""(?<![\w.=$/{])["']?\+?([a-z_]+(?:\.[a-z0-9_]+)*)=""")


@pytest.fixture
def known(call_app):
    """Whether an app has a setting: `known(app)(key)`."""

    def of(app):
        outcome = call_app(app, "--cfg", "job")
        assert outcome.code in (0, None), outcome.errors
        tree = yaml.safe_load(outcome.out)
        groups = {path.name for path in (ROOT / "configs").iterdir() if path.is_dir()}
        groups |= {"preset", "masking", "objective", *SWEPT, *GIVEN[app]}

        def there(key):
            # A further set has the settings of data.
            key = re.sub(r"^more\.\w+", "data", key)
            place = tree
            for part in key.split("."):
                if place is None:
                    return True  # null stands for settings that are not asked for
                if part not in place:
                    return key in groups
                place = place[part]
            return True

        return there

    return of


def commands(text: str) -> Iterator[tuple[str, str]]:
    """App and arguments of each command in a page, lines that go on joined, remarks left out."""
    for line in text.replace("\\\n", " ").splitlines():
        yield from re.findall(r"uv run apps/(finetune|pretrain)((?: [^#`]*)?)", line)


@pytest.mark.parametrize("app", ["finetune", "pretrain"])
def test_every_key_of_a_documented_command_is_a_setting(known, app):
    there, read, lost = known(app), 0, []
    for page in PAGES:
        for name, words in commands(page.read_text(encoding="utf-8")):
            if name != app:
                continue
            # What stands in quotes is a value, unless a setting begins there.
            for key in WORD.findall(words):
                read += 1
                if not there(key):
                    lost.append(f"{page.name}: {key}")
    assert not lost
    assert read > 20


def test_every_old_key_has_a_counterpart_that_is_there(known):
    there, text = known("finetune"), KEYS.read_text(encoding="utf-8")
    rows = text[text.index("## Keys with") : text.index("## Keys without")].splitlines()
    found = [row.split(" | ")[1] for row in rows if row.startswith("| ")][1:]
    settings = [
        word
        for cell in found
        for code in re.findall(r"`([^`]+)`", cell)
        for word in re.findall(r"^[a-z_.]+(?=[=:]|$)|(?<= )[a-z_.]+(?==)", code)
    ]
    assert len(settings) > 35
    assert [one for one in settings if not there(one)] == []
