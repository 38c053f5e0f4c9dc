"""The REST API as a command calls it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import httpx

from app.commands.endings import Refused, Unreachable
from app.settings import Settings, load_settings

F = TypeVar("F", bound=Callable[..., Any])
TIMEOUT_SECONDS = 30.0
FILE_NAME = "client.json"


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API is and the key for it; what ``landed up`` leaves for the commands beside it."""

    url: str
    key: str

    @classmethod
    def load(cls, data_dir: Path) -> Access | None:
        try:
            return cls(**json.loads((data_dir / FILE_NAME).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def save(self, data_dir: Path) -> None:
        """For its owner only: who reads it can send."""
        draft = data_dir / f".{FILE_NAME}.{os.getpid()}"
        draft.touch(mode=0o600)
        draft.write_text(json.dumps({"url": self.url, "key": self.key}) + "\n")
        draft.replace(data_dir / FILE_NAME)


def access_options(command: F) -> F:
    """``--url`` and ``--key``; left out, those of the service that runs here."""
    url = click.option("--url", envvar="LANDED_API_URL", help="Of the API.  [env: LANDED_API_URL]")
    key = click.option("--api-key", envvar="LANDED_API_KEY", help="Of your tenant.  [env: LANDED_API_KEY]")
    return url(key(command))


class Client:
    """Calls the API. Raises Refused with the problem's words, Unreachable when nobody answers."""

    def __init__(self, url: str | None, key: str | None) -> None:
        settings = load_settings()
        here = Access.load(settings.data_dir)
        key = key or (here.key if here else None)
        if key is None:
            raise click.UsageError("which API key? give --api-key or LANDED_API_KEY; `landed key create` makes one")
        self.url = url or (here.url if here else _configured_url(settings))
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **parameters: Any) -> Any:
        return self._answer("GET", path, params=parameters)

    def put(self, path: str, body: object) -> Any:
        return self._answer("PUT", path, json=body)

    def post(self, path: str, body: object = None, *, headers: dict[str, str] | None = None, **parameters: Any) -> Any:
        return self._answer("POST", path, json={} if body is None else body, headers=headers, params=parameters)

    def delete(self, path: str) -> None:
        self._answer("DELETE", path)

    def pages(self, path: str, **parameters: Any) -> list[Any]:
        """The items of all pages."""
        items: list[Any] = []
        after: str | None = None
        while True:
            page = self.get(path, **parameters, **({"after": after} if after else {}))
            items += page["items"]
            after = page["next"]
            if after is None:
                return items

    def _answer(self, method: str, path: str, **request: Any) -> Any:
        try:
            response = self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise Unreachable(f"no answer from {self.url}: {error}") from error
        if response.is_success:
            return response.json() if response.content else None
        raise (Unreachable if response.status_code == 503 else Refused)(_problem(response))


def _configured_url(settings: Settings) -> str:
    return f"http://{settings.api.host}:{settings.api.port}"


def _problem(response: httpx.Response) -> str:
    """The words of a problem document (RFC 9457), each wrong field on a line of its own."""
    try:
        problem = response.json()
        head = f"{response.status_code} {problem['title']}"
        errors = problem.get("errors")
        if not errors:
            return f"{head}: {problem.get('detail', '')}"
        return "\n".join([f"{head}:", *(f"  {error['field']}: {error['message']}" for error in errors)])
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason_phrase}"
