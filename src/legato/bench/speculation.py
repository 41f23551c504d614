"""``legato bench speculation``: what guessing ahead brings, and what it costs where it cannot help.

Rounds with and without it take turns, each on an empty cache, and their tokens are compared.

    edit        a program to write again with a change, the answer's first line begun; greedy
    predicted   the same, and the program sent as the predicted output
    prose       a story at temperature 1, in which little comes twice
    many        sixteen such stories at once
"""

from __future__ import annotations

import argparse
from time import perf_counter
from typing import NamedTuple

from legato.bench import in_process
from legato.bench.in_process import EngineHere
from legato.bench.report import publish
from legato.bench.rounds import Round
from legato.config import EngineConfig
from legato.engine import Engine
from legato.errors import EngineError
from legato.request import Request, SamplingParams

PROGRAM = '''class Account:
    """Money of one owner."""

    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance
        self.history = []

    def deposit(self, amount):
        """Adds money, and returns what is there."""
        if amount <= 0:
            raise ValueError("the amount must be positive")
        self.balance += amount
        self.history.append(("deposit", amount))
        return self.balance

    def withdraw(self, amount):
        """Takes money out, if there is enough."""
        if amount > self.balance:
            raise ValueError("there is not enough money")
        self.balance -= amount
        self.history.append(("withdraw", amount))
        return self.balance

    def transfer(self, other, amount):
        """Gives money to another account."""
        self.withdraw(amount)
        other.deposit(amount)
        return self.balance, other.balance

    def report(self):
        """One line for each change, the oldest first."""
        lines = [f"{kind}: {amount}" for kind, amount in self.history]
        return "\\n".join([self.owner, *lines, f"balance: {self.balance}"])
'''
EDIT = f"""The program:
```python
{PROGRAM}```
The same program, with the class named Wallet:
```python
class Wallet:
"""
STORY = "The lighthouse keeper opened the door, and"


class Load(NamedTuple):
    prompt: str
    temperature: float
    predicted: str = ""
    streams: int = 1


LOADS = {
    "edit": Load(EDIT, 0.0),
    "predicted": Load(EDIT, 0.0, PROGRAM.partition("\n")[2]),
    "prose": Load(STORY, 1.0),
    "many": Load(STORY, 1.0, streams=16),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--load", choices=LOADS, action="append", help="default: all of them")
    in_process.add_arguments(parser)
    parser.set_defaults(output_len=256, rounds=5)


def run(arguments: argparse.Namespace) -> int:
    here = EngineHere(arguments)
    engines = [
        Engine(here.program, here.info, EngineConfig(speculative_config=settings), draft=draft)
        for settings, draft in (("off", None), (here.config.speculative_config, here.draft))
    ]
    rounds: list[Round] = []
    for number in range(arguments.rounds):
        figures: Round = {}
        for name in arguments.load or LOADS:
            figures |= compare(here, engines, name, arguments.output_len, number)
        rounds.append(figures)
    settings = {k: v for k, v in vars(arguments).items() if k not in ("run", "json")}
    publish(f"{here.info.name}: guessing ahead", "speculation", settings, rounds, arguments.json)
    return 0


def compare(
    here: EngineHere, engines: list[Engine], name: str, output_len: int, number: int
) -> Round:
    """Without and with; which comes first changes from round to round."""
    order = engines if number % 2 else engines[::-1]
    results = {engine: answer(engine, requests(here, LOADS[name], output_len)) for engine in order}
    (plain, plain_s, plain_steps), (guessed, guessed_s, steps) = (results[e] for e in engines)
    if plain != guessed:
        raise EngineError(f"{name}: the tokens are not the same")
    tokens = sum(map(len, plain.values())) - len(plain)
    return {
        f"{name}_decode_tokens_per_s": tokens / plain_s,
        f"{name}_guessed_decode_tokens_per_s": tokens / guessed_s,
        f"{name}_steps": plain_steps,
        f"{name}_guessed_steps": steps,
        f"{name}_speed_up": plain_s / guessed_s,
    }


def requests(here: EngineHere, load: Load, output_len: int) -> list[Request]:
    return [
        Request(
            id=str(index),
            prompt_token_ids=here.encode(load.prompt),
            prediction_token_ids=here.encode(load.predicted) if load.predicted else [],
            params=SamplingParams(
                temperature=load.temperature, max_tokens=output_len, ignore_eos=True, seed=index
            ),
        )
        for index in range(load.streams)
    ]


def answer(engine: Engine, asked: list[Request]) -> tuple[dict[str, list[int]], float, int]:
    """The tokens, the seconds from the step that began all answers on, and how many steps."""
    engine.clear_cache()
    for request in asked:
        engine.add(request)
    found: dict[str, list[int]] = {}
    times: list[float] = []
    while engine.has_work:
        are_begun, before = len(found) == len(asked), perf_counter()
        for output in engine.step():
            if output.error:
                raise EngineError(output.error)
            found.setdefault(output.request_id, []).extend(output.token_ids)
        if are_begun:
            times.append(perf_counter() - before)
    return found, sum(times), len(times)
