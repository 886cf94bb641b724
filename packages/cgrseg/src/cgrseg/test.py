"""cgrseg-test; on several processes: `torchrun --nproc-per-node 4 -m cgrseg.test ...`."""

from cgrseg.recipes import PAPER
from segcore.commands.test import test_command

main = test_command(PAPER)

if __name__ == "__main__":
    raise SystemExit(main())
