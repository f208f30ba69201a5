"""Runs the toy in several processes that join by gloo, forked to spare each the import of torch.

python forked.py COUNT TOY OPTION...     as `torchrun --nproc-per-node COUNT` would
"""

import os
import sys

import torch
import torch._dynamo  # which an optimiser imports, in seconds
import torch.distributed.fsdp
from programs import free_port
from toy import options_of, train


def main(count, arguments):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    os.environ["WORLD_SIZE"] = str(count)
    children = []
    for rank in range(count):
        child = os.fork()
        if not child:
            os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
            code = 1
            try:
                code = train(options_of(arguments))
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(int(sys.argv[1]), sys.argv[3:]))
