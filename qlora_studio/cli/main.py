"""The command line: one subcommand a job, exit statuses that scripts may rely on."""

from __future__ import annotations

import argparse
import os
import sys

from qlora_studio import __version__
from qlora_studio.cli.output import print_error, print_json
from qlora_studio.errors import StudioError

DONE, BUG, REFUSED, STOPPED = 0, 1, 2, 130


def build_parser() -> argparse.ArgumentParser:
    """All subcommands."""
    from qlora_studio.cli import chatting, doctor, estimating, evaluating, exporting, reading, runs, training

    parser = argparse.ArgumentParser(
        prog="qlora-studio",
        description="QLoRA finetuning on your own workstation. Without a command: the window.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--page", metavar="NAME", help="open the window on this page")
    parser.add_argument("--run", metavar="FOLDER", dest="open_run", help="open the window on this run")
    subparsers = parser.add_subparsers(metavar="command")
    for module in (training, reading, estimating, runs, chatting, evaluating, exporting, doctor):
        module.add_commands(subparsers)
    return parser


def run_command(arguments: argparse.Namespace) -> int:
    """The exit status. Errors a person can act on are printed, never raised."""
    os.umask(0o077)  # run folders and logs are private (S12)
    as_json = bool(getattr(arguments, "json", False))
    try:
        status: int = arguments.run(arguments)
        return status
    except StudioError as error:
        if as_json and not getattr(error, "told", False):
            print_json({"error": {"message": error.message, "hint": error.hint}})
        elif not as_json:
            print_error(f"error: {error}")
        return REFUSED
    except KeyboardInterrupt:
        print_error("stopped")
        return STOPPED
    except BrokenPipeError:  # what we print to has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
