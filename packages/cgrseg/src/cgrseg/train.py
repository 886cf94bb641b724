"""cgrseg-train; on several processes: `torchrun --nproc-per-node 4 -m cgrseg.train ...`."""

from cgrseg.recipes import PAPER
from segcore.commands.train import train_command

main = train_command(PAPER)

if __name__ == "__main__":
    raise SystemExit(main())
