"""The subcommands of `test.py`, one file each: HELP, add_arguments(parser), run(options)."""
