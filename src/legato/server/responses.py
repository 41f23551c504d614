"""POST /v1/responses, and what was answered there before.

A last item of the assistant whose status is ``in_progress`` is continued where it ends; so is the
answer of ``previous_response_id`` when it was cut off and nothing is said after it.
"""

from __future__ import annotations

import uuid
from contextlib import ExitStack

from starlette.requests import Request
from starlette.responses import Response

from legato.answer import Answer
from legato.errors import RequestError
from legato.server.admission import read_request
from legato.server.errors import (
    PreviousResponseNotFoundError,
    ResponseNotFoundError,
    json_response,
)
from legato.server.guidance import guidance_of
from legato.server.kept_streams import (
    MAX_WINDOW,
    KeptStream,
    event_stream,
    number_of,
    resumed,
)
from legato.server.protocol import naming
from legato.server.responses_items import (
    Item,
    is_answer,
    is_thoughts,
    read_input,
    text_of_item,
    turns_of,
)
from legato.server.responses_reply import Reply
from legato.server.responses_request import LOGPROBS, NO_EFFECT, UNSUPPORTED, ResponsesRequest
from legato.server.routes import Routes
from legato.server.service import Service, off_loop
from legato.server.sse import unless_disconnected
from legato.server.structured import grammar_of
from legato.server.turns import render
from legato.text.continuation import Prompt
from legato.text.precedence import ContinueFinalMessage

router = Routes("OpenAI responses", prefix="/v1/responses")


MAX_LISTED = 100
DEFAULT_LISTED = 20


@router.post("", ResponsesRequest, NO_EFFECT, UNSUPPORTED)
async def create(http: Request, service: Service) -> Response:
    """Answer items, or continue an answer."""
    service.check_ready()
    request, size = await read_request(http, ResponsesRequest, NO_EFFECT, UNSUPPORTED)
    service.check_model(request.model)
    _check_logprobs(request)
    request.check_metadata()
    if request.background and not request.store:
        raise RequestError("background needs store: true", "background")
    window = service.resume_window(request.resume_window, streamed=request.stream)
    given = await off_loop(size, lambda: read_input(request.input or []))
    items, continued = _conversation(request, given, service)
    length = size + sum(len(text_of_item(item)) for item in items)
    prompt = await off_loop(length, lambda: _prompt(request, items, service, continued=continued))
    grammar = await grammar_of(request, prompt, service)
    answer = _begin(request, prompt, service, grammar)
    reply = Reply(request, answer, service, items, continued=continued)
    if request.background:
        kept = _in_background(reply, window or MAX_WINDOW, service)
        return resumed(kept) if request.stream else json_response(reply.response("in_progress"))
    if request.stream:
        return event_stream(service.streams, answer.request.id, reply.events(), window)
    return json_response(await unless_disconnected(http, reply.whole()))


def _in_background(reply: Reply, window: float, service: Service) -> KeptStream:
    """Raises what says that there is no room for it, before anything of it is remembered."""
    with ExitStack() as held:
        place = held.enter_context(service.admit([reply.answer])[0])
        kept = service.streams.open(
            reply.answer.request.id, reply.events(place), window, outlives=True
        )
        kept.when_ended(held.pop_all().close)
    reply.remember_begun()
    return kept


def _check_logprobs(request: ResponsesRequest) -> None:
    for name in request.include or ():
        if name != LOGPROBS:
            raise RequestError(f"include: {name!r} is not supported", "include")
    if request.top_logprobs and not request.wants_logprobs:
        raise RequestError(f"top_logprobs needs include: [{LOGPROBS!r}]", "top_logprobs")


def _conversation(
    request: ResponsesRequest, given: list[Item], service: Service
) -> tuple[list[Item], bool]:
    """All items, those remembered first, and whether the last one is continued."""
    if request.previous_response_id is None:
        if not given:
            raise RequestError("input is required", "input")
        return given, _is_begun(given[-1], "in_progress")
    try:
        previous = service.responses.get(request.previous_response_id)
    except ResponseNotFoundError:
        raise PreviousResponseNotFoundError(
            f"Previous response with id '{request.previous_response_id}' not found.",
            "previous_response_id",
        ) from None
    earlier = previous.conversation
    if previous.response["status"] == "in_progress":
        raise RequestError("the previous response is in progress", "previous_response_id")
    if given:
        return [*earlier, *given], _is_begun(given[-1], "in_progress")
    if not _is_begun(earlier[-1], "incomplete"):
        raise RequestError("input is required: the previous response is complete", "input")
    return [*earlier], True


def _is_begun(item: Item, status: str) -> bool:
    return bool(is_answer(item) and item["status"] == status)


def _prompt(
    request: ResponsesRequest, items: list[Item], service: Service, *, continued: bool
) -> Prompt:
    with naming({"messages": "input"}):
        turns = turns_of(items, request.instructions)
        field: ContinueFinalMessage = "reasoning_content" if is_thoughts(items[-1]) else "content"
        return render(turns, service, request, continued=continued and field)


def _begin(request: ResponsesRequest, prompt: Prompt, service: Service, grammar: str) -> Answer:
    params = request.params(
        service.engine.info.default_sampling,
        max_tokens=request.max_output_tokens,
        logprobs=(request.top_logprobs or 0) if request.wants_logprobs else None,
    )
    with naming({"max_tokens": "max_output_tokens", "logprobs": "top_logprobs"}):
        return service.answer(
            prompt,
            params,
            request_id=f"resp_{uuid.uuid4().hex}",
            priority=request.priority,
            cache_salt=request.cache_salt,
            field="input",
            guidance=guidance_of(request, prompt, service, grammar),
        )


RETRIEVING = ("include", "include[]", "stream", "starting_after", "include_obfuscation")
LISTING = ("limit", "order", "after", "include", "include[]")


@router.get("/{response_id}", query=RETRIEVING)
async def retrieve(response_id: str, http: Request, service: Service) -> Response:
    """A response that was stored. With `stream=true`, its events, those behind `starting_after`; for
    what was made with `background` or `resume_window`."""
    query = _known_query(http, RETRIEVING)
    after = query.get("starting_after")
    if query.get("stream", "false") not in ("true", "false"):
        raise RequestError(f"stream must be true or false, got {query['stream']!r}", "stream")
    if query.get("stream") != "true":
        if after is not None:
            raise RequestError("starting_after needs stream=true", "starting_after")
        return json_response(service.responses.get(response_id).response)
    kept = service.streams.get(response_id)
    return resumed(kept, -1 if after is None else number_of(after, "starting_after"))


@router.post("/{response_id}/cancel")
async def cancel(response_id: str, service: Service) -> Response:
    """Stop a response in the background."""
    stored = service.responses.get(response_id)
    if not stored.response["background"]:
        raise RequestError(
            "Cannot cancel a synchronous response: only those made with `background` can be cancelled."
        )
    if stored.response["status"] == "in_progress":
        await _stop(service.streams.get(response_id))
        stored = service.responses.get(response_id)
    return json_response(stored.response)


async def _stop(kept: KeptStream) -> None:
    kept.cancel()
    await kept.ended()


@router.delete("/{response_id}")
async def delete(response_id: str, service: Service) -> Response:
    """Forget a response and its events, which ends it if it is in progress. Those that went on from it
    keep what they need."""
    if service.responses.get(response_id).response["status"] == "in_progress":
        await _stop(service.streams.get(response_id))
    service.responses.delete(response_id)
    service.streams.forget(response_id)
    return json_response({"id": response_id, "object": "response", "deleted": True})


@router.get("/{response_id}/input_items", query=LISTING)
async def input_items(response_id: str, http: Request, service: Service) -> Response:
    """What the model read for a response, the latest first."""
    query = _known_query(http, LISTING)
    items = [*service.responses.get(response_id).items]
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise RequestError(f"order must be asc or desc, got {order!r}", "order")
    limit = query.get("limit", str(DEFAULT_LISTED))
    if not 1 <= number_of(limit, "limit") <= MAX_LISTED:
        raise RequestError(f"limit must be 1 to {MAX_LISTED}, got {limit}", "limit")
    if order == "desc":
        items.reverse()
    ids = [item["id"] for item in items]
    if "after" in query and query["after"] not in ids:
        raise RequestError(f"after: no item has the id {query['after']!r}", "after")
    start = ids.index(query["after"]) + 1 if "after" in query else 0
    shown = items[start : start + int(limit)]
    return json_response(
        {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
            "has_more": start + len(shown) < len(items),
        }
    )


def _known_query(http: Request, known: tuple[str, ...]) -> dict[str, str]:
    for name in http.query_params:
        if name not in known:
            raise RequestError(f"{name} is not supported", name)
    return dict(http.query_params)
