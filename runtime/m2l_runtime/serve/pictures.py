"""Answer ``POST /synthesize``: a mask picture in, a lesion picture out."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from m2l_runtime._utils.text import shown
from m2l_runtime.conditioning.conditions import Condition
from m2l_runtime.errors import InputError, MaskFileError, PictureFileError
from m2l_runtime.masks.mask_file import MaskFile, parse_mask
from m2l_runtime.output.encoding import encode_image
from m2l_runtime.output.formats import FORMATS
from m2l_runtime.serve.errors import HttpError
from m2l_runtime.serve.model import Job, ServedModel
from m2l_runtime.serve.parameters import SynthesizeQuery, header_text
from m2l_runtime.serve.work import Workshop

PATH: Final = "/synthesize"
_NO_PICTURES: Final = ("multipart/", "application/x-www-form-urlencoded", "application/json")

ANSWER_HEADERS: Final = {
    "M2L-Notice": "That the image is synthetic.",
    "M2L-Seed": "The seed asked for; a run of m2l synth with it, and a mask of that name, makes this image.",
    "M2L-Name": "The name of the mask.",
    "M2L-Sample": "The number of the sample.",
    "M2L-Image-Seed": "The seed of this image, as its file has it.",
    "M2L-Appearance": "The appearance of this image, numbers by name, as its file has it.",
    "M2L-Size": "WIDTHxHEIGHT in pixels.",
    "M2L-Mask-Note": "What is unusual about the mask.",
    "M2L-Bundle-SHA256": "The bundle.",
}
"""Headers of an answer, and what they are. Where an image depends on the mask alone, some are left out."""


def routes(workshop: Workshop) -> list[Route]:
    """Make the route."""

    async def synthesize(request: Request) -> Response:
        query = SynthesizeQuery.parse(request.url.query)
        _check_media_type(request.headers.get("content-type", ""))
        body = await workshop.receive(request)
        with workshop.admit(), workshop.holder.current.lease() as model:
            (condition,) = model.conditions([query.name], query.seed, [query.sample], query.appearance)
            options = workshop.options
            body = await workshop.unpack(request, body)
            mask = await workshop.in_thread(lambda: _read_mask(body, model, options.max_pixels))
            (image,) = await workshop.synthesize(request, [Job(model, mask.mask, condition)])
            text = {**model.text, **({} if condition is None else condition.text_fields)}
            content = await workshop.in_thread(lambda: encode_image(image, mask.mask, query.encoding, text))
            media_type = FORMATS[query.encoding.format].media_type
            return Response(content, 200, _headers(query, model, mask, condition), media_type)

    return [Route(PATH, synthesize, methods=["POST"], name=PATH)]


def _check_media_type(media_type: str) -> None:
    if media_type.strip().lower().startswith(_NO_PICTURES):
        raise HttpError(
            415,
            f"the body is the picture itself, as image/png, got {shown(media_type)}; with curl: "
            "-H 'Content-Type: image/png' --data-binary @mask.png",
        )


def _read_mask(content: bytes, model: ServedModel, max_pixels: int) -> MaskFile:
    try:
        return parse_mask(content, model.image_size, max_pixels=max_pixels)
    except MaskFileError as error:
        raise MaskFileError(f"the mask {error}") from None
    except PictureFileError as error:
        raise PictureFileError(f"the mask {error}") from None
    except MemoryError:
        raise InputError("the mask does not fit in memory") from None


def _headers(query: SynthesizeQuery, model: ServedModel, mask: MaskFile, condition: Condition | None) -> dict[str, str]:
    height, width = model.image_size
    headers = {
        "M2L-Notice": model.text["Description"],
        "M2L-Name": header_text(query.name),
        "M2L-Size": f"{width}x{height}",
        "M2L-Bundle-SHA256": model.text["m2l-bundle-sha256"],
    }
    if mask.note is not None:
        headers["M2L-Mask-Note"] = mask.note
    if condition is not None:
        fields = condition.text_fields
        headers |= {
            "M2L-Seed": str(query.seed),
            "M2L-Sample": str(query.sample),
            "M2L-Image-Seed": fields["m2l-seed"],
        }
        if "m2l-appearance" in fields:
            headers["M2L-Appearance"] = fields["m2l-appearance"]
    return headers
