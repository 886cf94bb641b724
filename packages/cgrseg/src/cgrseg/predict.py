"""cgrseg-predict; on several processes: `torchrun --nproc-per-node 4 -m cgrseg.predict ...`."""

from cgrseg.recipes import PAPER
from segcore.commands.predict import predict_command

main = predict_command(PAPER)

if __name__ == "__main__":
    raise SystemExit(main())
