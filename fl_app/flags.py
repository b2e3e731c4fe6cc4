"""Flags of the command line that say their unit and check their range."""

import math
from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperCommand


def number_option(
    name: str,
    words: str,
    least: float = 0,
    most: float = math.inf,
    *,
    above: bool = False,
    endless: bool = False,
) -> Any:
    """Returns an option for a number of `least` or more, or `above` it, and of `most` at most.

    NaN is always refused, infinity unless the number may be `endless`.
    """
    want = f"more than {least:g}" if above else f"{least:g} or more"
    limit = f", {most:g} at most" if most < math.inf else ""
    kind = "number or inf" if endless else "finite number"

    def check(value: float | None) -> float | None:
        if value is None:
            return None
        large_enough = value > least if above else value >= least
        small_enough = value <= most and (endless or value < math.inf)
        if large_enough and (small_enough or (endless and value == math.inf)):
            return value
        raise typer.BadParameter(f"{value:g}: want a {kind}, {want}{limit}.")

    return typer.Option(name, callback=check, help=words)


def command_with(renamed: Mapping[str, str], refused: Mapping[str, str] | None = None) -> type[TyperCommand]:
    """Returns the class of a command that still takes some flags by their old names, and explains others.

    Args:
        renamed: new name by old name, of flags whose meaning is the same.
        refused: what to say of old names whose number would be taken for something else.
    """
    said = dict(refused or {})

    class CommandWithOldFlags(TyperCommand):
        """A command that knows old names of its flags, which its help does not show."""

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            return super().parse_args(ctx, [new_name(text) for text in args])

    def new_name(text: str) -> str:
        flag, equals, value = text.partition("=")
        if flag in said:
            raise typer.BadParameter(f"{flag}: {said[flag]}")
        return f"{renamed.get(flag, flag)}{equals}{value}"

    return CommandWithOldFlags
