"""iiwa-predict; on several processes: `torchrun --nproc-per-node 4 -m iiwa.predict ...`."""

from iiwa.recipes import PAPER
from segcore.commands.predict import predict_command

main = predict_command(PAPER)

if __name__ == "__main__":
    raise SystemExit(main())
