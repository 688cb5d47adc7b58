"""The HTTP side: routes, streams, clients that leave.

| path | |
| --- | --- |
| `GET /health` | is it up, and how much is there to do? |
| `GET /v1/models` | the one model |
| `POST /v1/completions` | a text, continued |
| `POST /v1/chat/completions` | messages, answered |
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cotejar.errors import CotejarError, EngineError, UsageError
from cotejar.generation.grammar import GrammarConstraint
from cotejar.generation.sampler import Sampler
from cotejar.generation.scheduler import Finish, Job
from cotejar.generation.text_stream import TextStream
from cotejar.serving.answers import (
    Frame,
    TokenLogprob,
    error_object,
    measure_logprob,
    usage_of,
)
from cotejar.serving.requests import TextRequest, read_chat, read_completion

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import numpy as np
    from starlette.requests import Request

    from cotejar.model.language_model import LanguageModel
    from cotejar.serving.engine_thread import EngineThread

MAX_BODY_BYTES = 8 << 20
BAD_REQUEST, TOO_LARGE, INTERNAL, BUSY = 400, 413, 500, 503
SECONDS_BETWEEN_LOOKS = 0.2
"""How often somebody who waits for a whole answer is looked after: is the client there?"""


def make_app(engine: EngineThread, model: LanguageModel) -> Starlette:
    """The application; the engine thread starts and stops with it."""
    service = Service(engine, model)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(engine.stop)

    return Starlette(
        routes=[
            Route("/health", service.health),
            Route("/v1/models", service.models),
            Route("/v1/completions", service.completions, methods=["POST"]),
            Route("/v1/chat/completions", service.chat, methods=["POST"]),
        ],
        lifespan=lifespan,
    )


@dataclass(frozen=True, slots=True)
class Piece:
    """What one token added."""

    text: str
    logprob: TokenLogprob | None


@dataclass(eq=False)
class Growing:
    """One text that grows in the engine's thread, as the event loop sees it."""

    job: Job
    pieces: asyncio.Queue[Piece | None] = field(default_factory=asyncio.Queue)
    """None: it is done, and `job` says how."""


class Service:
    """The routes' functions."""

    def __init__(self, engine: EngineThread, model: LanguageModel) -> None:
        self._engine, self._model = engine, model

    async def health(self, _: Request) -> Response:
        """Up, as long as this answers."""
        return JSONResponse({"status": "ok", "jobs": self._engine.num_jobs})

    async def models(self, _: Request) -> Response:
        """The one there is."""
        entry = {"id": self._model.name, "object": "model", "created": 0, "owned_by": "local"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def completions(self, request: Request) -> Response:
        """`/v1/completions`."""
        return await self._answer(request, "completion")

    async def chat(self, request: Request) -> Response:
        """`/v1/chat/completions`."""
        return await self._answer(request, "chat")

    async def _answer(self, request: Request, kind: str) -> Response:
        if self._engine.is_full:
            return JSONResponse(error_object(_busy(), server=True), BUSY)
        read = read_chat if kind == "chat" else read_completion
        try:
            body = await _read_body(request)
            asked = await asyncio.to_thread(read, body, self._model.tokenizer)
            growing = await asyncio.to_thread(self._grow, asked, asyncio.get_running_loop())
        except BodyTooLargeError as error:
            return JSONResponse(error_object(error), TOO_LARGE)
        except CotejarError as error:
            return JSONResponse(error_object(error), BAD_REQUEST)
        frame = Frame(kind=kind, model=self._model.name, tokenizer=self._model.tokenizer)
        if not asked.stream:
            return await self._whole(request, asked, growing, frame)
        first = await growing.pieces.get()
        if first is None and growing.job.error is not None:
            return _failure(growing.job.error)
        events = self._events(asked, growing, frame, first)
        return StreamingResponse(events, media_type="text/event-stream")

    def _grow(self, asked: TextRequest, loop: asyncio.AbstractEventLoop) -> Growing:
        """Hand the request to the engine; what it makes arrives in the event loop."""
        tokenizer, context = self._model.tokenizer, self._model.declared.config.context_length
        constraint = None
        if asked.schema is not None:
            constraint = GrammarConstraint(
                tokenizer, "json-schema", asked.schema, self._model.config.vocab_size
            )
        stream = TextStream(tokenizer, asked.stops)

        def send(piece: Piece | None) -> None:
            # The loop may be gone while the server goes down.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(growing.pieces.put_nowait, piece)

        def hear(token: int, logits_V: np.ndarray) -> bool:
            logprob = None
            if asked.top_logprobs is not None:
                logprob = measure_logprob(token, logits_V, asked.top_logprobs)
            send(Piece(stream.push(token), logprob))
            return stream.stopped

        def finish(_: Job) -> None:
            rest = stream.finish()
            if rest:
                send(Piece(rest, None))
            send(None)

        growing = Growing(
            Job(
                prompt_ids=asked.prompt_ids,
                sampler=Sampler(asked.sampling, constraint=constraint),
                max_tokens=asked.max_tokens or context,
                end_ids=tokenizer.eos_ids,
                on_token=hear,
                on_finish=finish,
            )
        )
        self._engine.add(growing.job)
        return growing

    async def _whole(
        self, request: Request, asked: TextRequest, growing: Growing, frame: Frame
    ) -> Response:
        texts, logprobs = list[str](), list[TokenLogprob]()
        watch = asyncio.create_task(self._cancel_when_gone(request, growing))
        try:
            while (piece := await growing.pieces.get()) is not None:
                texts.append(piece.text)
                if piece.logprob is not None:
                    logprobs.append(piece.logprob)
        finally:
            watch.cancel()
            self._engine.cancel(growing.job)
        if growing.job.error is not None:
            return _failure(growing.job.error)
        wanted = None if asked.top_logprobs is None else logprobs
        text, finish = "".join(texts), _finish(growing.job)
        return JSONResponse(frame.whole(text, finish, _usage(growing.job), wanted))

    async def _cancel_when_gone(self, request: Request, growing: Growing) -> None:
        """However fast the tokens come, a client that has left ends its text."""
        while not await request.is_disconnected():  # noqa: ASYNC110 - Starlette has no event of it
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        self._engine.cancel(growing.job)

    async def _events(
        self, asked: TextRequest, growing: Growing, frame: Frame, first: Piece | None
    ) -> AsyncIterator[bytes]:
        """Server-sent events; whoever leaves early ends the text with it."""
        try:
            if frame.kind == "chat":
                yield _event(frame.first_chunk())
            piece = first
            while piece is not None:
                logprobs = None if piece.logprob is None else [piece.logprob]
                if piece.text or logprobs:
                    yield _event(frame.chunk(piece.text, None, logprobs))
                piece = await growing.pieces.get()
            if growing.job.error is not None:
                yield _event(error_object(growing.job.error, server=True))
                return
            yield _event(frame.chunk("", _finish(growing.job), None))
            if asked.include_usage:
                yield _event(frame.usage_chunk(_usage(growing.job)))
            yield b"data: [DONE]\n\n"
        finally:
            self._engine.cancel(growing.job)


class BodyTooLargeError(UsageError):
    """The body of a request is larger than anything that can be honoured."""


async def _read_body(request: Request) -> Any:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLargeError(
                "the request is too large",
                where="body",
                expected=f"at most {MAX_BODY_BYTES} bytes",
                found="more",
                hint="send fewer messages",
            )
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            "the request is no JSON",
            where="body",
            expected="a JSON object",
            found=str(error)[:200],
            hint="send Content-Type: application/json and a JSON object",
        ) from None


def _event(facts: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(facts)}\n\n".encode()


def _finish(job: Job) -> str:
    return "length" if job.finish is Finish.LENGTH else "stop"


def _usage(job: Job) -> dict[str, Any]:
    return usage_of(len(job.prompt_ids), len(job.token_ids), job.num_reused)


def _failure(error: CotejarError) -> Response:
    server = not isinstance(error, UsageError)
    return JSONResponse(error_object(error, server=server), INTERNAL if server else BAD_REQUEST)


def _busy() -> CotejarError:
    return EngineError(
        "too many requests wait",
        where="server",
        expected="a free place to wait in",
        found="none",
        hint="ask again later",
    )
