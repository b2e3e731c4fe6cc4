"""What a run shows: names that strangers chose are neither markup nor orders to the terminal."""

import pytest

from fl_app import console
from fl_app.history import History

NAMES = ["[/x]", "[red]m[/red]", "[link=x]", ":smile:", "\\[a]", "\x1b[2Jv", "v\nw", "\udc80", "\r", "😀"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_as_it_is_wherever_it_comes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    history = History()
    history.add(1, {f"vehicle/{name}/ap50": 0.25})
    console.console.print(console.vehicle_table(history, {name: name}))
    console.console.print(console.losses_table({name: {name: 3}}))
    console.say(name)
    out = capsys.readouterr().out
    shown = console.printable(name) if name != "v\nw" else "v\\nw"
    assert out.count(shown) >= 4
    assert not {"\x1b", "\r", "\udc80"} & set(out)
    assert "0.250" in out
    out.encode()
