"""The `segcore compare` commands."""

COMMANDS = {
    "run": ("segcore.commands.compare_run", "train and test every head alike, several seeds: a study"),
    "one": ("segcore.commands.compare_one", "one run of a study, as `segcore compare run` starts it"),
    "cost": ("segcore.commands.compare_cost", "parameters, multiply-adds and latency of a checkpoint on this machine"),
}
