"""unept-test; on several processes: `torchrun --nproc-per-node 4 -m unept.test ...`."""

from segcore.commands.test import test_command
from unept.recipes import PAPER

main = test_command(PAPER)

if __name__ == "__main__":
    raise SystemExit(main())
