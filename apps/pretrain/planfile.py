"""The file that a plan is: settings for `plan=FILE`, each with its reason as a comment."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import oct_io
from oct_io.survey import WindowChoice
from oct_vjepa.plans.facts import Measured
from oct_vjepa.presets.runs import Preset
from oct_vjepa.presets.sources import Given, Settings
from settings import PretrainConfig

HEAD = (
    "A plan for this data on this machine, made by propose.to: each value has its reason beside",
    "it. Change what you know better; `uv run apps/pretrain plan=THIS_FILE` trains with it, and",
    "what the command line sets stands above it.",
)
DEFAULTS = """\
defaults:
  - pretrain
  - override data: {data}
  - override augment: light # mirrored or not, brighter or darker: what costs nothing
  - override objective: {objective}
  - _self_
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a run will cost."""

    train_hours: float
    cache_hours: float
    cache_gb: float
    free_gb: float
    workers: Given

    def describe(self, measured: Measured) -> list[str]:
        """Lines for a person."""
        memory = f", {measured.memory_gb:.1f} GB" if measured.memory_gb else ""
        lines = [
            f"measured: {measured.step_s:.3g} s a step, median of {measured.steps}{memory}",
            f"training: {_time(self.train_hours)}; the cache: {_time(self.cache_hours)}, once, and "
            f"{self.cache_gb:.2g} GB",
        ]
        if self.cache_gb > 0.9 * self.free_gb:
            lines.append(f"the disk of data.cache has {self.free_gb:.2g} GB free, too few")
        return lines


def _time(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"


def write_plan(
    target: Path,
    config: PretrainConfig,
    plan: Preset,
    window: WindowChoice,
    estimate: Estimate,
    said: Sequence[str],
) -> None:
    """Write the settings that `uv run apps/pretrain plan=target` takes.

    Args:
        target: a new file.
        config: of the command that asked for the plan; where scans lie is taken from it.
        plan: what is proposed.
        window: likewise.
        estimate: what it will cost.
        said: lines on top.
    """
    base = "folder" if config.data.phantom is None else "phantom"
    lines = [
        *(f"# {line}" for line in (*HEAD, *said)),
        "",
        DEFAULTS.format(data=base, objective=plan.objective.name),
    ]
    lines += [f"name: {_value(config.data.name + '-plan')}", ""]
    lines += _section("data", _data(config.data, window))
    lines += _section("encoder", _encoder(plan))
    lines += ["masking:", "  sets:"]
    for one in plan.masking.sets:
        (first, *rest) = _lines(one)
        lines += [f"    - {first}", *(f"      {line}" for line in rest)]
    objective = {"predictor": plan.objective.predictor, **plan.objective.settings}
    lines += ["", *_section("objective", objective)]
    training = dict(plan.training)
    feed = {"batch_size": training.pop("batch_size"), "workers": estimate.workers}
    lines += _section("feed", feed)
    lines += _section("schedule", plan.schedule)
    lines += _section("loop", {**training, **_rhythm(int(training["steps"].value))})
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _data(data: oct_io.SourceConfig, window: WindowChoice) -> dict[str, Any]:
    """What differs from the defaults of a source, as the command had it; and the window."""
    plain = oct_io.SourceConfig()
    found: dict[str, Any] = {}
    for one in fields(data):
        value = getattr(data, one.name)
        if value == getattr(plain, one.name) or one.name in ("window", "cache", "phantom"):
            continue
        value = asdict(value) if hasattr(value, "__dataclass_fields__") else value
        found[one.name] = Given(value, "as given")
    if data.phantom is not None:
        found["phantom"] = Given(asdict(data.phantom), "as given")
    kept = data.cache.removesuffix(f"-{data.window}")
    found["window"] = Given(window.name, window.reason)
    found["cache"] = Given(f"{kept}-{window.name}", "a folder a window")
    return found


def _encoder(plan: Preset) -> Settings:
    shape, size = plan.encoder.config(), plan.encoder.size
    taken = {
        name: Given(getattr(shape, name), f"ViT {size.value}: {size.source}")
        for name in ("width", "depth", "heads", "mlp_ratio")
    }
    return {**plan.encoder.settings, **taken}


def _rhythm(steps: int) -> Settings:
    every = max(1, steps // 20)
    return {
        "log_every": Given(max(1, steps // 500), "some 500 points a curve"),
        "evaluate_every": Given(every, "20 times; the probe costs some per cent of the time"),
        "checkpoint_every": Given(every, "20 times: so much is lost at most"),
    }


def _section(name: str, settings: Mapping[str, Any]) -> list[str]:
    return [f"{name}:", *(f"  {line}" for line in _lines(settings)), ""]


def _lines(settings: Any) -> Iterator[str]:
    for name, one in settings.items():
        if isinstance(one, Given):
            yield f"{name}: {_value(one.value)} # {' '.join(one.source.split())}"
        else:
            yield f"{name}:"
            yield from (f"  {line}" for line in _lines(one))


def _value(value: Any) -> str:
    """A value as YAML, which JSON is but for 1e-06 and the like: YAML 1.1 takes them for texts."""
    if isinstance(value, float) and "e" in repr(value):
        return f"{value:.12f}".rstrip("0")
    return json.dumps(value)
