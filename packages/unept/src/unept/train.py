"""unept-train; on several processes: `torchrun --nproc-per-node 4 -m unept.train ...`."""

from segcore.commands.train import train_command
from unept.recipes import PAPER

main = train_command(PAPER)

if __name__ == "__main__":
    raise SystemExit(main())
