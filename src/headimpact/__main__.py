"""``python -m headimpact``: the command line."""

from headimpact.lifecycle.command_line import app

if __name__ == "__main__":
    app(prog_name="headimpact")
