"""How the apps start and end: from the command line to a claimed run folder and an exit code.

`app` makes a command of a function and its settings; `console` is what both say to a terminal. It
knows what the three libraries call an error, a device and a run folder, and nothing of what an app
does between its start and its end. `settings` knows what may be set, `manual` prints it for
`--help`, `hints` finds what was meant, and `sweep` runs one command line with several values.
"""

from oct_launch.command import Launch, RuntimeConfig, app, check_positions, check_window
from oct_launch.console import (
    EXIT_STOPPED,
    Mistake,
    Stages,
    ending_at_once,
    exit_codes,
    mistakes,
    print_table,
)
from oct_launch.places import refuse_url
from oct_launch.settings import offer
from oct_launch.sweep import Job, Sweeping
from oct_launch.tracking import TrackingConfig

__all__ = [
    "EXIT_STOPPED",
    "Job",
    "Launch",
    "Mistake",
    "RuntimeConfig",
    "Stages",
    "Sweeping",
    "TrackingConfig",
    "app",
    "check_positions",
    "check_window",
    "ending_at_once",
    "exit_codes",
    "mistakes",
    "offer",
    "print_table",
    "refuse_url",
]
