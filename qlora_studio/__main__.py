"""Opens the window, or does one job in the terminal."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """The exit status."""
    try:
        return _main()
    except KeyboardInterrupt:  # while modules are loaded, or after a command has told its end
        sys.stderr.write("stopped\n")
        return 130


def _main() -> int:
    from qlora_studio.cli.main import parse, run_command

    arguments = parse(sys.argv[1:])
    if hasattr(arguments, "run"):
        return run_command(arguments)
    if not _display():
        arguments.run = _refuse_window if arguments.page or arguments.open_run else _first_run
        return run_command(arguments)
    from qlora_studio.ui.window import open_window

    return open_window(page=arguments.page, run=arguments.open_run)


def _refuse_window(_: object) -> int:
    from qlora_studio.errors import StudioError

    raise StudioError(
        "There is no display here, so there is no window to open a page in.",
        hint="'qlora-studio runs' and the other commands of 'qlora-studio --help' work without one.",
    )


def _first_run(_: object) -> int:
    from qlora_studio.cli.first_run import first_run

    sys.stdout.write(
        "No display here, so no window: the sample run, in the terminal. Other jobs: qlora-studio --help.\n"
    )
    sys.stdout.flush()
    return first_run()


def _display() -> bool:
    if sys.platform in ("win32", "darwin"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"))


if __name__ == "__main__":
    sys.exit(main())
