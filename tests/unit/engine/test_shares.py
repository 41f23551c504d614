"""Shares of clients: nobody is starved, neither by one client's crowd nor by many who come all the time."""

from __future__ import annotations

import pytest
from test_engine import ask, make

from legato.engine import Engine
from legato.server.asker import Asker
from legato.server.load import Load, Place

LANES = 2
CROWD = 12
STEPS = 400


class Server:
    """Clients in front of an engine that serves two at a time, as ``Service`` puts them there."""

    def __init__(self, *, ranks_move: bool = True) -> None:
        self.engine: Engine = make(max_num_seqs=LANES)
        self.load = Load(running=LANES, queue=100)
        self.open: dict[str, Place] = {}
        self.ended: list[str] = []
        self._ranks_move = ranks_move

    def ask(self, client: str) -> str:
        place = self.load.admit(Asker(client), [1])[0]
        name = f"{client}{len(self.open) + len(self.ended)}"
        request = ask(name, [1, 2, 3], max_tokens=4)
        request.priority = place.rank
        self.engine.add(request)
        if self._ranks_move:
            place.moved = lambda rank: self.engine.rank(name, rank)
        self.open[name] = place
        return name

    def step(self) -> None:
        for output in self.engine.step():
            if output.finish_reason is not None:
                self.open.pop(output.request_id).__exit__()
                self.ended.append(output.request_id)
        self.engine.check_integrity()


def starved(server: Server) -> set[str]:
    """Those of a crowd which are not served, while clients with one request each come all the time."""
    server.ask("other")
    crowd = {server.ask("crowd") for _ in range(CROWD)}
    for number in range(STEPS):
        while sum(not name.startswith("crowd") for name in server.open) < LANES:
            server.ask(f"other {number} ")
        server.step()
    return crowd - {*server.ended}


def test_a_crowd_is_not_starved_by_those_who_come_later() -> None:
    server = Server()
    assert not starved(server)
    crowd = [name for name in server.ended if name.startswith("crowd")]
    assert crowd == sorted(crowd, key=lambda name: int(name.removeprefix("crowd")))


def test_with_ranks_that_stay_it_would_be() -> None:
    """What the test above is worth."""
    assert len(starved(Server(ranks_move=False))) > CROWD / 2


@pytest.mark.parametrize("crowd", [3, 50])
def test_one_client_does_not_starve_another(crowd: int) -> None:
    server = Server()
    for _ in range(crowd):
        server.ask("crowd")
    for _ in range(3):
        server.step()
    mine = server.ask("me")
    for _ in range(12):  # its own four tokens, and what is under way
        server.step()
    assert mine in server.ended


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_client_is_served_in_the_order_of_asking(*, is_alone: bool) -> None:
    """Also under churn: what comes when less is open does not overtake what came when more was."""
    server = Server()
    for _ in range(20):
        server.ask("me")
    for _ in range(400):
        if sum(name.startswith("me") for name in server.open) < 16:
            server.ask("me")
        if not is_alone and not any(name.startswith("other") for name in server.open):
            server.ask("other")
        server.step()
    order = [int(name[2:]) for name in server.ended if name.startswith("me")]
    assert len(order) >= 90 and order == sorted(order)
