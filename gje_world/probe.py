"""`gje-probe`: what beliefs and encoders are worth."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from gje_world.command import fail, run_command
from gje_world.probing import ambiguity, encoders

COMMANDS: dict[str, tuple[type, Callable[[Any], int], str]] = {
    "ambiguity": (ambiguity.AmbiguityConfig, ambiguity.ambiguity, ambiguity.ABOUT),
    "encoders": (encoders.EncodersConfig, encoders.encoders, encoders.ABOUT),
}


def main() -> None:
    """Entry point of `gje-probe`."""
    name, *arguments = sys.argv[1:] or [""]
    if name in ("--help", "-h"):
        print("\n".join(about.strip().partition("\n")[0] for _, _, about in COMMANDS.values()))
        sys.exit(0)
    if name not in COMMANDS:
        sys.exit(fail(f"gje-probe {name} must be one of gje-probe {', '.join(COMMANDS)}"))
    schema, work, about = COMMANDS[name]
    sys.exit(run_command(name, schema, work, about, arguments=arguments))


if __name__ == "__main__":
    main()
