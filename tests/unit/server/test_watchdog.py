"""The watchdog: silence is the engine's fault only if there is nothing to be heard."""

from __future__ import annotations

import asyncio

import pytest

from legato.server.watchdog import Watchdog


@pytest.mark.parametrize("is_alive", [True, False])
def test_an_engine_that_was_only_not_listened_to_is_left_alone(is_alive: bool) -> None:
    """The server may have been held up itself: what has arrived meanwhile is looked at first."""

    async def scenario() -> list[str]:
        told: list[str] = []

        def listen() -> None:
            told.append("listens")
            if is_alive:
                dog.hear()

        dog = Watchdog(lambda: True, listen, lambda silence: told.append("bites"))
        dog.start(0.4)
        while len(told) < 2 and "bites" not in told:
            await asyncio.sleep(0.01)
        dog.stop()
        return told

    assert asyncio.run(scenario()) == ["listens", "listens" if is_alive else "bites"]
