"""ecfd-train; on several processes: `torchrun --nproc-per-node 4 -m ecfd.train ...`."""

from ecfd.recipes import PAPER
from segcore.commands.train import train_command

main = train_command(PAPER)

if __name__ == "__main__":
    raise SystemExit(main())
