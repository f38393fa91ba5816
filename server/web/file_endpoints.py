"""Files: `POST /v1/files` takes one in, `GET /v1/files/{digest}` gives it out.

Owns the headers of both: the type by content, validators and ranges (RFC 9110), and what keeps a file from acting
as a page of this server. A file of another tenant is answered as an unknown one, after the same read; so is one
that a caller who may only touch certain conversations has not got from one of them. Must not know how files are
stored.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from werkzeug.http import parse_etags, parse_range_header

from eventstore import StoreUnavailable
from server.auth.limits.rate_limiter import RateLimiter
from server.auth.limits.upload_count import UploadCount
from server.auth.principal import NO_CREDENTIAL, Principal
from server.files import file_types
from server.files.file_store import (
    CHUNK_BYTES,
    DIGEST_PATTERN,
    FileStore,
    FileUnknown,
    FinishedUpload,
    StoredFile,
)
from server.files.upload import receive_file, too_large
from server.problem import Problem, not_found
from server.runtime.conversation_service import ConversationService
from server.web.edge.client_address import header_list
from server.web.edge.http_messages import (
    JSON,
    Headers,
    PlainRequest,
    PlainResponse,
    Response,
    ResponseChunks,
    ResponseCut,
    StreamResponse,
    end_line,
)
from server.web.edge.problem_json import problem_response
from server.web.upload_body import MAX_FORM_OVERHEAD, body_parts, form_boundary, form_file

UPLOAD_RULE: Final = "/v1/files"
FILE_RULE: Final = "/v1/files/<file:digest>"
MAX_UPLOADS: Final = 64
"""Uploads that this process takes in at the same time; each holds a chunk or two in memory."""
MAX_UPLOADS_OF_TENANT: Final = 48
"""Those of one tenant: an upload may take a quarter of an hour, and other tenants must not wait for that."""
MAX_UPLOADS_OF_CALLER: Final = 16
"""Those of one key or user of it. Who calls without a credential cannot be told apart, and shares the tenant's."""
RETRY_SECONDS: Final = 2
"""After this time a client may find a place for its upload."""
MAX_AGE_SECONDS: Final = 3600
"""How long a browser may keep its copy: a file that is erased should not be there for long."""
_ALL: Final = "all"
_INLINE: Final = frozenset({*file_types.IMAGES, file_types.PDF, file_types.TEXT})
_EXTENSIONS: Final = {
    file_types.PNG: "png",
    file_types.JPEG: "jpg",
    file_types.GIF: "gif",
    file_types.WEBP: "webp",
    file_types.PDF: "pdf",
    file_types.TEXT: "txt",
}


class FileShown(msgspec.Struct, frozen=True, kw_only=True):
    """A file. Messages name it by its digest."""

    digest: Annotated[str, Meta(pattern=DIGEST_PATTERN, description="The SHA-256 of its bytes.")]
    media_type: Annotated[str, Meta(description="By its content, whatever was claimed.")]
    size: Annotated[int, Meta(ge=1, description="Bytes.")]
    created_at: datetime
    expires_at: Annotated[datetime, Meta(description="When it is removed, unless a conversation uses it by then.")]


class FileEndpoints:
    """The endpoints of files. `max_bytes`: of one file. `unused_seconds`: as for `receive_file`."""

    def __init__(
        self, runtime: ConversationService, limiter: RateLimiter, max_bytes: int, unused_seconds: float
    ) -> None:
        self._runtime = runtime
        self._files = runtime.files
        self._limiter = limiter
        self._max_bytes = max_bytes
        self._unused_seconds = unused_seconds
        self._uploads: Counter[str] = Counter()

    async def upload(self, request: PlainRequest) -> PlainResponse:
        """`POST /v1/files`: 201 and the file; 200 where the tenant has it already.

        Raises `Problem` 408, 413 `file_too_large`, 415, 422 `empty_file` and `invalid_form`, 429, 503;
        `ClientGone` and `StoreUnavailable`.
        """
        metrics = self._runtime.metrics
        try:
            done = await self._receive(request)
        except Problem as problem:
            metrics.uploads.add("refused" if problem.status < 500 else "cut")
            raise
        except BaseException:  # a cancelled task too: its client has gone
            metrics.uploads.add("cut")
            raise
        metrics.uploads.add("created" if done.created else "repeated")
        location = self._runtime.public.path(f"{UPLOAD_RULE}/{done.file.digest}").encode()
        headers = (
            (b"content-type", JSON.encode()),
            (b"cache-control", b"no-store"),
            (b"location", location),
        )
        return PlainResponse(201 if done.created else 200, headers, _shown(done))

    async def _receive(self, request: PlainRequest) -> FinishedUpload:
        if request.receive is None:
            raise RuntimeError("an upload has to be read from its connection")
        boundary = form_boundary(request.headers)
        length = _content_length(request)
        if length > self._max_bytes + (0 if boundary is None else MAX_FORM_OVERHEAD):
            raise too_large(self._max_bytes)  # before the client has sent it
        with self._place(request.principal):
            counted = await UploadCount.begin(self._limiter, request.principal, length)

            def count(size: int) -> None:
                self._runtime.metrics.uploaded_bytes += size
                counted.take(size)

            try:
                async with (
                    aclosing(body_parts(request.receive, count)) as body,
                    aclosing(body if boundary is None else form_file(body, boundary)) as parts,
                ):
                    return await receive_file(
                        self._files,
                        parts,
                        request.principal.tenant,
                        max_bytes=self._max_bytes,
                        unused_seconds=self._unused_seconds,
                    )
            finally:
                counted.settle()

    @contextmanager
    def _place(self, principal: Principal) -> Iterator[None]:
        """A place among the uploads. Raises `Problem` 429 `rate_limited`, 503 `overloaded`."""
        tenant, caller = f"tenant {principal.tenant}", f"caller {principal.caller}"
        if principal.credential != NO_CREDENTIAL and self._uploads[caller] >= MAX_UPLOADS_OF_CALLER:
            raise _too_many("caller", MAX_UPLOADS_OF_CALLER)
        if self._uploads[tenant] >= MAX_UPLOADS_OF_TENANT:
            raise _too_many("tenant", MAX_UPLOADS_OF_TENANT)
        if self._uploads[_ALL] >= MAX_UPLOADS:
            raise Problem(
                503,
                "overloaded",
                f"This server takes in {MAX_UPLOADS} files at the same time already. Come back in a moment.",
                retry_after=RETRY_SECONDS,
                extra={"limit": MAX_UPLOADS},
            )
        held = Counter([_ALL, tenant, caller])
        self._uploads += held
        try:
            yield
        finally:
            self._uploads -= held  # forgets whoever has none left

    async def read(self, request: PlainRequest, digest: str) -> Response:
        """`GET` and `HEAD /v1/files/{digest}`: the bytes, or a range of them.

        Raises `Problem` 404, and `StoreUnavailable`. A range that the file does not have is answered with 416.
        """
        principal = request.principal
        found = await self._files.describe(principal.tenant, [digest], principal.conversations)
        file = found.get(digest)
        if file is None:
            raise not_found("file")
        if _is_unchanged(request, digest):
            return PlainResponse(304, _version(file))
        headers = _headers(file)
        start, stop, status = 0, file.size, 200
        wanted = _range(request, file) if request.method == "GET" else None
        if wanted is not None:
            start, stop = wanted
            status = 206
            if start >= stop:
                return self._unsatisfiable(file)
            headers = (*headers, (b"content-range", b"bytes %d-%d/%d" % (start, stop - 1, file.size)))
        headers = (*headers, (b"content-length", b"%d" % (stop - start)))
        if request.method == "HEAD":
            return PlainResponse(status, headers)
        body = _FileBody(self._files, principal.tenant, digest, start, stop)
        try:
            await body.load_first()  # while the answer can still be another
        except FileUnknown:
            raise not_found("file") from None
        return StreamResponse(body, headers, status)

    def _unsatisfiable(self, file: StoredFile) -> PlainResponse:
        problem = Problem(
            416,
            "range_not_satisfiable",
            f"The file has {file.size} bytes, and none of those that `Range` asks for.",
            extra={"limit": file.size},
        )
        response = problem_response(problem, self._runtime.public)
        size = (b"content-range", b"bytes */%d" % file.size)  # RFC 9110 section 15.5.17
        return PlainResponse(416, (*response.headers, size), response.body)


class _FileBody(ResponseChunks):
    """The bytes of a file, a chunk at a time. It counts among no streams: it ends by itself."""

    def __init__(self, files: FileStore, tenant: str, digest: str, start: int, stop: int) -> None:
        self._read = partial(files.stream, tenant, digest)
        self._at = start
        self._stop = stop
        self._first = b""

    async def load_first(self) -> None:
        """Reads the first chunk. Raises `FileUnknown`, `StoreUnavailable`."""
        self._first = await self._load()

    async def next(self) -> bytes:
        if self._first:
            data, self._first = self._first, b""
            return data
        try:
            return await self._load()
        except FileUnknown as error:
            raise ResponseCut(f"the file {error.digest} was removed") from None
        except StoreUnavailable as error:
            raise ResponseCut(str(error)) from None

    async def _load(self) -> bytes:
        # Each chunk is asked for anew: a client that goes leaves no iterator behind that somebody has to close.
        start, self._at = self._at, min(self._stop, (self._at // CHUNK_BYTES + 1) * CHUNK_BYTES)
        return b"".join([part async for part in self._read(start, self._at)]) if start < self._stop else b""


def _too_many(whose: str, most: int) -> Problem:
    detail = f"This {whose} sends {most} files to this server already: the most at the same time. Send some later."
    extra = {"limit": f"{whose}.uploads", "value": str(most), "retry_after": RETRY_SECONDS}
    return Problem(429, "rate_limited", detail, retry_after=RETRY_SECONDS, extra=extra)


def _shown(done: FinishedUpload) -> bytes:
    file = done.file
    shown = FileShown(
        digest=file.digest,
        media_type=file.media_type,
        size=file.size,
        created_at=file.created_at,
        expires_at=done.expires_at,
    )
    return end_line(msgspec.json.encode(shown))


def _version(file: StoredFile) -> Headers:
    """Which version of the address this is, and how long a copy of it may be kept."""
    return (
        (b"etag", b'"%b"' % file.digest.encode()),
        (b"cache-control", b"private, max-age=%d, immutable" % MAX_AGE_SECONDS),
        # Whoever signs in as somebody else in the same browser is not given the other's copy.
        (b"vary", b"Authorization, Cookie"),
    )


def _headers(file: StoredFile) -> Headers:
    """The headers of a file, and of a range of it.

    `sandbox` gives a file that a browser shows as a page an origin of its own, without scripts
    (https://www.w3.org/TR/CSP3/#directive-sandbox). PDF has none: browsers show no PDF in a sandbox, and run
    nothing of it with rights on this server.
    """
    media_type = file.media_type
    shown = b"inline" if media_type in _INLINE else b"attachment"
    name = f'; filename="{file.digest[:12]}.{_EXTENSIONS.get(media_type, "bin")}"'
    headers: Headers = (
        (b"content-type", (media_type + ("; charset=utf-8" if media_type == file_types.TEXT else "")).encode()),
        *_version(file),
        (b"accept-ranges", b"bytes"),
        (b"content-disposition", shown + name.encode()),
        (b"cross-origin-resource-policy", b"same-site"),
    )
    if media_type != file_types.PDF:
        headers = (*headers, (b"content-security-policy", b"default-src 'none'; sandbox"))
    return headers


def _is_unchanged(request: PlainRequest, digest: str) -> bool:
    """Whether `If-None-Match` names the file, so that the client has it (RFC 9110 section 13.1.2)."""
    text = request.headers.get("if-none-match")
    if text is None:
        return False
    tags = parse_etags(text)
    return tags.star_tag or tags.contains_weak(digest)


def _range(request: PlainRequest, file: StoredFile) -> tuple[int, int] | None:
    """The range that is asked for, from its first byte up to behind its last; None for the whole file.

    A range that the file does not have is empty. Several ranges, other units and what is no range are answered
    with the whole file, and so is a range of another version, by `If-Range` (RFC 9110 sections 13.1.5 and 14.2).
    """
    lines = [value.decode("latin-1") for name, value in request.scope["headers"] if name == b"range"]
    asked = parse_range_header(lines[0]) if len(lines) == 1 else None
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1:
        return None
    versions = header_list(request.scope["headers"], b"if-range")
    if versions and versions != [f'"{file.digest}"']:
        return None
    first, end = asked.ranges[0]
    if first < 0:
        return max(0, file.size + first), file.size
    return first, file.size if end is None else min(end, file.size)


def _content_length(request: PlainRequest) -> int:
    """What the request announces; 0 where it announces nothing."""
    for name, value in request.scope["headers"]:
        if name == b"content-length":
            with suppress(ValueError):
                return int(value)
    return 0
