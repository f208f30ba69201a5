"""Where others stopped: student, teacher and predictor of a V-JEPA file, to go on from.

V-JEPA 2's files hold all three (app/vjepa/train.py saves "encoder", "target_encoder" and
"predictor"); distilled ones of 2.1 hold a teacher alone, and a folder of transformers the teacher
and the predictor. What is not there begins as what is: the student as the teacher, the predictor at
random. An encoder of ours, a folder of `save_pretrained`, is a student whose teacher starts alike.
"""

from dataclasses import dataclass, fields
from pathlib import Path

from torch import nn

from oct_vjepa.convert.formats import read_encoder
from oct_vjepa.convert.layout import ConversionConfig
from oct_vjepa.convert.predictors import read_predictor
from oct_vjepa.model.configuration import EncoderConfig
from oct_vjepa.model.encoder import FREE, Encoder
from oct_vjepa.model.predictor import Predictor
from oct_vjepa.model.weights import CONFIG_NAME, WeightsError, local_copy, read_config

LATER = ("proj_voxels.",)
"""How names of a predictor begin that no published one has; they keep their random start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What a run begins with.

    Attributes:
        student: the encoder that is trained.
        teacher: the one that it follows.
        predictor: between them; None: at random.
        notes: what was done to the weights, and what was not there, a sentence each.
    """

    student: Encoder
    teacher: Encoder
    predictor: Predictor | None = None
    notes: tuple[str, ...] = ()


def read_start(
    source: str | Path, wanted: EncoderConfig, *, mask_sets: int = 2, predictor_heads: int = 12
) -> Start:
    """Student, teacher and predictor from a file of V-JEPA 2 or 2.1, or from a folder.

    Channels are summed and patches grown to those of `wanted`; all else that weights depend on must
    be in `wanted` as it is in the file.

    Args:
        source: a local file or folder, or a URL (needs `oct-vjepa[urls]`).
        wanted: encoder of the run.
        mask_sets: how many mask tokens the predictor shall have.
        predictor_heads: no tensor tells; 12 in all of V-JEPA 2.

    Raises:
        WeightsError: unreadable, of no known layout, or of another shape; the setting is named.
    """
    with local_copy(source) as path:
        if path.is_dir() and _is_ours(path):
            encoder = Encoder.from_pretrained(path, wanted)
            return Start(student=encoder, teacher=encoder)
        return _foreign(path, str(source), wanted, mask_sets, predictor_heads)


def hand_over(start: Start, objective: nn.Module) -> None:
    """Give teacher and predictor of an objective the weights to start with.

    Its student is the one that it was built around.

    Raises:
        WeightsError: a predictor of another shape, or an objective without a teacher.
    """
    teacher = getattr(getattr(objective, "teacher", None), "encoder", None)
    if not isinstance(teacher, Encoder):
        raise WeightsError(
            "this objective has no teacher to start from weights; take objective=vjepa2 or vjepa21"
        )
    teacher.load_state_dict(start.teacher.state_dict())
    if start.predictor is not None:
        _hand_over_predictor(start.predictor, objective.get_submodule("predictor"))


def _hand_over_predictor(given: Predictor, own: nn.Module) -> None:
    state, wanted = given.state_dict(), own.state_dict()
    state |= {name: value for name, value in wanted.items() if name.startswith(LATER)}
    cure = (
        f"set objective.predictor.width={given.config.width} and "
        f"objective.predictor.depth={given.config.depth}; weights of V-JEPA 2.1 want "
        "objective=vjepa21, those of 2 objective=vjepa2"
    )
    for name in sorted(state.keys() | wanted.keys()):
        there, here = (
            tuple(one[name].shape) if name in one else "nothing" for one in (state, wanted)
        )
        if there != here:
            raise WeightsError(
                f"the predictor of the weights is not that of the run: {name} is {there} there "
                f"and {here} here; {cure}"
            )
    own.load_state_dict(state)


def _is_ours(folder: Path) -> bool:
    """Whether a folder is one that `Encoder.save_pretrained` wrote; transformers has a type."""
    if not (folder / CONFIG_NAME).is_file():
        return True  # and `from_pretrained` says what is missing
    try:
        read_config(folder, "encoder")
    except WeightsError as error:
        return "oct-vjepa convert" not in str(error)
    return True


def _foreign(
    path: Path, source: str, wanted: EncoderConfig, mask_sets: int, predictor_heads: int
) -> Start:
    said: list[str] = []
    found: dict[str, Encoder] = {}
    parts = ("auto",) if path.is_dir() else ("context", "target")
    for part in parts:
        try:
            found[part] = _encoder(path, source, wanted, part, said)
        except _NotThereError:
            said.append(f"the file has no {part} encoder; both start from the other one")
    if not found:
        raise WeightsError(f"{source}: no encoder of V-JEPA 2 in it")
    student = found.get("context", next(iter(found.values())))
    teacher = found.get("target", next(iter(found.values())))
    try:
        predictor, report = read_predictor(path, wanted, mask_sets=mask_sets, heads=predictor_heads)
    except WeightsError as error:
        if "has no predictor" not in str(error):
            raise
        said.append("the file has no predictor, so that it starts at random")
        return Start(student=student, teacher=teacher, notes=tuple(said))
    said += [f"predictor: {name}: {how}" for name, how in report.adapted.items()]
    return Start(student=student, teacher=teacher, predictor=predictor, notes=tuple(said))


class _NotThereError(WeightsError):
    """A file lacks one of the parts."""


def _encoder(path: Path, source: str, wanted: EncoderConfig, part: str, said: list[str]) -> Encoder:
    """One encoder of a file in the configuration of the run; what was done is added to `said`."""
    config = ConversionConfig(
        part=part,
        input_shape=wanted.input_shape,
        patch_size=wanted.patch_size,
        channels=wanted.channels,
        heads=wanted.heads,
        input_mean=wanted.input_mean,
        input_std=wanted.input_std,
    )
    try:
        encoder, report = read_encoder(path, config)
    except WeightsError as error:
        text = str(error).replace(str(path), source)
        kind = _NotThereError if f"part {part!r} is not in the file" in text else WeightsError
        raise kind(text) from error
    free = {*FREE, "position_scale"}  # which only lengths have, and no published weights
    if wanted.position_unit != "span":
        free.add("position_span")
    if wanted.position_unit == "length" and encoder.config.position_unit == "index":
        free.add("position_unit")
        said.append(f"{part} encoder: positions are lengths now; the weights counted patches")
    for one in fields(EncoderConfig):
        there, here = getattr(encoder.config, one.name), getattr(wanted, one.name)
        if one.name not in free and there != here:
            raise WeightsError(
                f"{source}: was made with encoder.{one.name}={there}, and this run has {here}; "
                "make them equal"
            )
    said += [f"{part} encoder: {name}: {how}" for name, how in report.adapted.items()]
    result = Encoder(wanted)
    result.load_state_dict(encoder.state_dict())
    return result.eval()
