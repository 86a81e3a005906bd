"""GET /v1/openapi.json: the API described by what it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from pylvs import __version__
from pylvs.daemon.api.operations import Operation, answer


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The OpenAPI document of these operations."""
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = each.described()
    error = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "pylvs run", "version": __version__},
        "paths": paths,
        "components": {"schemas": {"Error": error}},
    }


def operation(others: Iterable[Operation]) -> Operation:
    """The one that describes the others, and itself."""
    all_of_them = list(others)

    async def openapi(_: web.Request, _given: Mapping[str, Any]) -> web.Response:
        return answer(document(all_of_them))

    all_of_them.append(Operation("GET", "/v1/openapi.json", "This document.", openapi))
    return all_of_them[-1]
