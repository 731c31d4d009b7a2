"""Store of the Kubeflow on loopback, in an SQLite file."""

import json
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ID = {
    "experiment": "experiment_id",
    "pipeline": "pipeline_id",
    "version": "pipeline_version_id",
    "run": "run_id",
    "schedule": "recurring_run_id",
}
"""The field that holds the id, of each kind."""

_UNIQUE = ("experiment", "pipeline", "version")


class RefusedError(Exception):
    """The server's answer to what it does not do."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Store:
    """Objects that the server received, in an SQLite file."""

    def __init__(self, file: Path) -> None:
        self.lock = threading.RLock()
        self._connection = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._connection.execute(
            "create table if not exists things"
            " (kind text, id text primary key, parent text, name text, created integer, doc text)"
        )

    def close(self) -> None:
        self._connection.close()

    def add(self, kind: str, document: dict[str, Any], *, name: str, parent: str = "") -> None:
        """Keep a new one.

        Raises:
            RefusedError: Its name is taken, where names are unique.
        """
        with self.lock:
            if kind in _UNIQUE and any(
                row["name"] == name for row in self.rows(kind, parent=parent)
            ):
                raise RefusedError(409, f"the {kind} {name} already exists")
            self._connection.execute(
                "insert into things values (?, ?, ?, ?, ?, ?)",
                (kind, document[f"{ID[kind]}"], parent, name, time.time(), json.dumps(document)),
            )

    def rows(self, kind: str, *, parent: str | None = None) -> list[dict[str, Any]]:
        """All of a kind, the oldest first."""
        with self.lock:
            result = self._connection.execute(
                "select parent, name, doc from things where kind = ? order by created", (kind,)
            ).fetchall()
        return [
            {"name": name, "parent": of, **json.loads(doc)}
            for of, name, doc in result
            if parent is None or of == parent
        ]

    def get(self, kind: str, identity: str) -> dict[str, Any]:
        """One of them.

        Raises:
            RefusedError: There is none.
        """
        for row in self.rows(kind):
            if row[ID[kind]] == identity:
                return row
        raise RefusedError(404, f"{kind} {identity} not found")

    def change(self, kind: str, identity: str, changes: Mapping[str, Any]) -> None:
        """Set fields of one."""
        with self.lock:
            document = {
                key: value
                for key, value in (self.get(kind, identity) | changes).items()
                if key != "parent"
            }
            self._connection.execute(
                "update things set doc = ? where id = ?", (json.dumps(document), identity)
            )

    def remove(self, kind: str, identity: str) -> None:
        """Forget one.

        Raises:
            RefusedError: There is none.
        """
        with self.lock:
            self.get(kind, identity)
            self._connection.execute("delete from things where id = ?", (identity,))
