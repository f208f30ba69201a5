"""python3 scripts/tpu COMMAND POD: trains on a Cloud TPU pod; see `commands`."""

import sys

from commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
