"""Run the command line by `python -m m2l_runtime.cli`: all verbs that are installed, as `m2l` does."""

from m2l_runtime.cli.main import main

if __name__ == "__main__":
    main()
