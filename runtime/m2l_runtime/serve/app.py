"""Make the application: routes, the guard before them, and their end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from m2l_runtime._utils.arguments import check_types
from m2l_runtime.errors import M2LError
from m2l_runtime.serve import inference, page_routes, pictures
from m2l_runtime.serve.errors import handle_error, json_response
from m2l_runtime.serve.guard import Guard, route_name
from m2l_runtime.serve.model import ModelHolder, ServedModel
from m2l_runtime.serve.openapi import describe
from m2l_runtime.serve.options import ServeOptions
from m2l_runtime.serve.work import Workshop
from m2l_runtime.synthesizer import Synthesizer


@check_types()
def create_app(
    synthesizer: Synthesizer,
    options: ServeOptions | None = None,
    *,
    reopen: Callable[[], Synthesizer] | None = None,
) -> Starlette:
    """Make an ASGI application that serves a synthesizer.

    Beside this, a server must limit connections, and how long headers may take; :func:`m2l_runtime.serve.serve` does.

    Example:
        >>> app = create_app(Synthesizer.open(backend="fake"))
        >>> "/synthesize" in [route.path for route in app.routes]
        True

    Args:
        synthesizer: what to serve; closed when the application ends.
        options: what is taken, and how much of it.
        reopen: opens the bundle again, for :func:`reload_bundle`.
    """
    model = ServedModel(synthesizer)
    workshop = Workshop(ModelHolder(model, reopen), options or ServeOptions())

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await workshop.in_thread(model.warm_up)
        yield
        await workshop.close()
        workshop.holder.current.retire()

    routes = [*inference.routes(workshop), *pictures.routes(workshop), *_own_routes(workshop)]
    routes += page_routes.routes(workshop)
    names = {route.endpoint: route.name for route in routes}
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(
                Guard,
                options=workshop.options,
                metrics=workshop.metrics,
                route_of=partial(route_name, known=names),
                exposed_headers=(*pictures.ANSWER_HEADERS, "Inference-Header-Content-Length", "Retry-After"),
            )
        ],
        exception_handlers={M2LError: handle_error, HTTPException: handle_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.workshop = workshop
    return app


def workshop_of(app: Starlette) -> Workshop:
    """Return what the requests of an application share."""
    workshop: Workshop = app.state.workshop
    return workshop


async def reload_bundle(workshop: Workshop) -> None:
    """Open the bundle again, check it, and serve it from the next request on.

    Raises:
        M2LError: it cannot be used; the one before is served on.
    """
    try:
        model = await asyncio.to_thread(workshop.holder.load_next)  # for seconds, beside the requests
    except BaseException:
        workshop.metrics.count_reload(is_done=False)
        raise
    workshop.holder.replace(model)
    workshop.metrics.describe_bundle(model)
    workshop.metrics.count_reload(is_done=True)


def _own_routes(workshop: Workshop) -> list[Route]:
    """Make the routes for whoever watches a service or writes a client of it."""

    async def metrics(_: Request) -> Response:
        content, media_type = workshop.metrics.text()
        return Response(content, 200, None, media_type)

    async def openapi(_: Request) -> Response:
        return json_response(describe(workshop))

    return [Route("/metrics", metrics, name="/metrics"), Route("/openapi.json", openapi, name="/openapi.json")]
