"""unept-predict; on several processes: `torchrun --nproc-per-node 4 -m unept.predict ...`."""

from segcore.commands.predict import predict_command
from unept.recipes import PAPER

main = predict_command(PAPER)

if __name__ == "__main__":
    raise SystemExit(main())
