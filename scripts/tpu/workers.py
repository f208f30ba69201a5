"""What is run on the workers of a pod: shell texts, filled in by `format`, and what they answer.

There ~/oct is the code, and ~/oct-run holds the log, the session and the exit code of the training.
"""

from typing import NamedTuple

SENT = "refs/tpu/sent"
"""Under which name a bundle holds the commit."""

MARK = "oct-worker"

# Python 3.12 at the most: libtpu 0.0.21, which torch-xla 2.9.0 asks for, has no wheel for 3.13.
INSTALL = """set -e
mkdir -p ~/oct && cd ~/oct && git init -q
git fetch -q --force ~/oct.bundle {sent}:{sent}
git checkout -q --force --detach {commit}
export PATH="$HOME/.local/bin:$PATH"
command -v uv > /dev/null || python3 -m pip install -q --user 'uv>=0.12,<0.14'
uv sync -q --no-dev --python '>=3.11,<3.13'
uv pip install -q -e './packages/oct-xla[tpu]'"""

# One line a worker, which begins with MARK: gcloud mixes lines of its own among them.
REPORT = f"""commit=none; run=none
if cd ~/oct 2> /dev/null && commit=$(git rev-parse --verify -q HEAD); then
  test -z "$(git status --porcelain --untracked-files=no)" || commit=$commit+changed
else commit=none; fi
if test -e ~/oct-run/session; then
  if test -e ~/oct-run/code; then run=ended:$(cat ~/oct-run/code)
  elif kill -0 -- -$(cat ~/oct-run/session) 2> /dev/null; then run=running
  else run=lost; fi
  if test -e ~/oct-run/stopped; then run=$run,stopped; fi
fi
echo "{MARK} $(hostname) $commit $run" """

# A session of its own outlives ssh. The shell in it outlives SIGTERM, and keeps the exit code.
START = """mkdir -p ~/oct-run && cd ~/oct && rm -f ~/oct-run/code ~/oct-run/stopped
setsid nohup sh -c 'trap : TERM; "$@"; echo $? > ~/oct-run/code' oct \\
  env {environment} .venv/bin/python apps/pretrain {arguments} \\
  >> ~/oct-run/log 2>&1 < /dev/null &
echo $! > ~/oct-run/session"""

STOP = """test -e ~/oct-run/session || exit 0
session=$(cat ~/oct-run/session); {mark}
kill -TERM -- -$session 2> /dev/null
for tenth in $(seq {patience}0); do
  kill -0 -- -$session 2> /dev/null || exit 0
  sleep 0.1
done
kill -KILL -- -$session"""

TAIL = "tail -n {lines} -F ~/oct-run/log"
NAMED = ' | sed -u "s/^/$(hostname): /"'


class Worker(NamedTuple):
    """What one worker says of itself."""

    host: str
    commit: str  # with "+changed" where files differ from it; "none" without code
    run: str  # none, running, lost, or ended:CODE; ",stopped" after it if `stop` did that

    @property
    def running(self) -> bool:
        """Whether a training is going on, be it asked to stop."""
        return self.run.startswith("running")


def read_report(said: str) -> list[Worker]:
    """The workers that have answered `REPORT`."""
    lines = [line.split() for line in said.splitlines() if line.startswith(f"{MARK} ")]
    return [Worker(*line[1:]) for line in lines if len(line) == 4]
