"""Names of devices and scan protocols, and the field of view that each protocol stands for."""

import re
from typing import NamedTuple

from oct_io.volume import Laterality, Pattern


class Protocol(NamedTuple):
    """One scan protocol; sizes from the AI-READI documentation of its retinal_oct folder."""

    token: str  # starts every file name of the protocol, after the participant's id
    device: str
    shape: tuple[int, int, int]  # (bscans, rows, columns) as documented; counts vary by a few
    extent_mm: tuple[float, float] | None  # (across B-scans, along a B-scan); None if not a raster
    region: str
    pattern: Pattern = "raster"
    alias: str = ""  # token in the names of released files, where it is another


_SPECTRALIS, _MAESTRO = "heidelberg_spectralis", "topcon_maestro2"
_TRITON, _CIRRUS = "topcon_triton", "zeiss_cirrus"
_DISC, _MACULA, _MACULA6, _MACULA12 = "Optic Disc", "Macula", "Macula, 6 x 6", "Macula, 12 x 12"

# Spectralis fields are given in degrees; 7.3 x 8.8 mm for 25 x 30 degrees is the usual figure for
# an emmetropic eye, as is 5.8 mm for 20 degrees. The others are documented in millimetres. Released
# B-scans of Topcon's OCTA are named `..._6x6_oct_`, without the `octa` of the documentation.
PROTOCOLS: tuple[Protocol, ...] = (
    Protocol("spectralis_onh_rc_hr_oct", _SPECTRALIS, (27, 496, 768), None, _DISC, "radial"),
    Protocol("spectralis_ppol_mac_hr_oct", _SPECTRALIS, (61, 496, 1536), (7.3, 8.8), _MACULA),
    Protocol("spectralis_mac_20x20_hs_octa_oct", _SPECTRALIS, (512, 496, 512), (5.8, 5.8), _MACULA),
    Protocol("maestro2_3d_macula_oct", _MAESTRO, (128, 885, 512), (6.0, 6.0), _MACULA),
    Protocol("maestro2_3d_wide_oct", _MAESTRO, (128, 885, 512), (9.0, 12.0), "Wide Field"),
    Protocol(
        "maestro2_macula_6x6_octa_oct",
        _MAESTRO,
        (360, 885, 360),
        (6.0, 6.0),
        _MACULA6,
        alias="maestro2_macula_6x6_oct",
    ),
    Protocol("triton_3d_radial_oct", _TRITON, (256, 992, 512), (9.0, 12.0), _DISC),
    Protocol(
        "triton_macula_6x6_octa_oct",
        _TRITON,
        (320, 992, 320),
        (6.0, 6.0),
        _MACULA6,
        alias="triton_macula_6x6_oct",
    ),
    Protocol(
        "triton_macula_12x12_octa_oct",
        _TRITON,
        (512, 992, 512),
        (12.0, 12.0),
        _MACULA12,
        alias="triton_macula_12x12_oct",
    ),
    Protocol("cirrus_mac_oct", _CIRRUS, (128, 1024, 512), (6.0, 6.0), _MACULA),
    Protocol("cirrus_disc_oct", _CIRRUS, (200, 1024, 200), (6.0, 6.0), _DISC),
    Protocol("cirrus_macula_6x6_octa_oct", _CIRRUS, (350, 1024, 350), (6.0, 6.0), _MACULA6),
    Protocol(
        "cirrus_disc_6x6_octa_oct", _CIRRUS, (350, 1024, 350), (6.0, 6.0), "Optic Disc, 6 x 6"
    ),
)

DEVICES: tuple[str, ...] = (_SPECTRALIS, _MAESTRO, _TRITON, _CIRRUS)

_DEVICE_WORDS = (
    ("spectralis", _SPECTRALIS),
    ("maestro", _MAESTRO),
    ("triton", _TRITON),
    ("cirrus", _CIRRUS),
)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def find_protocol(name: str) -> Protocol | None:
    """Protocol that a file name or protocol name stands for; the longest known token wins.

    Real names differ behind the token (`_hr_oct_l_`, `_hr_oct_oct_l_`, `_oct_small_`), so the token
    is compared as a prefix of whole words, at the start of `name` or after any `_`.
    """
    return _find_token(name)[0]


def _find_token(name: str) -> tuple[Protocol | None, str]:
    """Protocol in a name, and what stands behind its token there."""
    slug = f"_{_slug(name.rsplit('/', 1)[-1])}_"
    spelt = ((token, one) for one in PROTOCOLS for token in (one.token, one.alias) if token)
    known = [(token, one) for token, one in spelt if f"_{token}_" in slug]
    if not known:
        return None, ""
    token, protocol = max(known, key=lambda found: len(found[0]))
    return protocol, slug.rsplit(f"_{token}_", 1)[-1]


def protocol_token(*names: str) -> str:
    """Normalised token of the first of `names` (file name, ProtocolName) that is known.

    Phantoms keep the name they were given; anything else is "unknown".
    """
    for name in names:
        found = find_protocol(name)
        if found:
            return found.token
    for name in names:
        phantom = re.search(r"(?:^|_)(phantom_[a-z0-9_]*?)(?:_[lr]_\d.*)?$", _slug(name)[:256])
        if phantom:
            return phantom[1][:64]
    return "unknown"


def laterality_in_name(name: str) -> Laterality:
    """Eye in an AI-READI file name, `<id>_<protocol>_<l|r>_<uid>`; only behind a known protocol."""
    side = re.search(r"_([lr])_\d", f"_{_find_token(name)[1]}")
    sides: dict[str, Laterality] = {"l": "L", "r": "R"}
    return sides[side[1]] if side else "unknown"


def device_name(manufacturer: str, model: str) -> str:
    """Normalised device, such as "zeiss_cirrus"; phantoms keep their name, others are "unknown"."""
    slug = _slug(model)
    if slug.startswith("phantom"):
        return slug[:64]
    text = f"{_slug(manufacturer)}_{slug}"
    return next((device for word, device in _DEVICE_WORDS if word in text), "unknown")


def stated_device(name: str) -> str:
    """Normalised device as somebody wrote it down on purpose; unlisted ones keep their own name."""
    known = device_name("", name)
    return (_slug(name)[:64] or known) if known == "unknown" else known
