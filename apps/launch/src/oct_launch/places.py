"""Where an app may write: on this machine."""

from oct_launch.console import Mistake


def refuse_url(setting: str, place: str) -> None:
    """Refuse a bucket where only a folder will do; it would become a folder of that name.

    Raises:
        Mistake: names the setting and the place.
    """
    if "://" in place:
        raise Mistake(f"{setting} ({place}) must be a local folder, not a URL")
