"""The `segcore compare` commands."""

COMMANDS = {
    "run": ("segcore.commands.compare_run", "train and test every head alike, several seeds: a study"),
    "show": ("segcore.commands.compare_show", "ranking, intervals and differences of a study or of runs made by hand"),
    "context": ("segcore.commands.compare_context", "IoU as a function of the radius that a pixel may see"),
    "one": ("segcore.commands.compare_one", "one run of a study, as `segcore compare run` starts it"),
    "cost": ("segcore.commands.compare_cost", "parameters, multiply-adds and latency of a checkpoint on this machine"),
}
