"""`FileRef`: the type of a workflow's input that names an uploaded file.

Owns the type, its JSON Schema (`format: tokentape-file`, so that a form can offer an upload), and the search for
the files that an input names: they are kept as long as the conversation. Must not know where files are. Pure.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

SCHEMA_FORMAT: Final = "tokentape-file"
"""The `format` of the type in JSON Schema."""
_PATTERN: Final = "^[0-9a-f]{64}$"


class FileRef(str):
    """Names an uploaded file: the `digest` that `POST /v1/files` answered. `await run.file(ref)` gives its bytes.

        class Scan(BaseModel):
            pages: list[FileRef]

        @workflow("read_scan", input=Scan)
        async def read_scan(run: Run) -> str: ...

    A request whose input names a file that is not there is refused with 422 `file_unknown`. The file is kept as
    long as the conversation of the generation.
    """

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema(pattern=_PATTERN))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "format": SCHEMA_FORMAT}


def find_file_refs(value: Any) -> Iterator[FileRef]:
    """Every `FileRef` in a value that was read by a declared type: in models, dataclasses, objects and lists."""
    if isinstance(value, FileRef):
        yield value
    elif isinstance(value, BaseModel):
        for _, one in value:  # the extra fields too
            yield from find_file_refs(one)
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from find_file_refs(name)
            yield from find_file_refs(one)
    elif isinstance(value, list | tuple | set | frozenset):
        for one in value:
            yield from find_file_refs(one)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from find_file_refs(getattr(value, field.name))
