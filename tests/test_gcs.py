"""A folder in Google Cloud Storage, listed page by page from a server that answers as its API does.

https://cloud.google.com/storage/docs/json_api/v1/objects/list
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec
import pytest

from extract.sources.image_file import to_path
from extract.sources.url import list_below

NAMES = [f"train/a/{number}.png" for number in range(5)] + ["train/a/", "train/ab/0.png"]
PAGE = 2  # objects


class Objects(BaseHTTPRequestHandler):
    """Lists the objects of the bucket `gels`, two at a time."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        if unquote(url.path) != "/storage/v1/b/gels/o":
            return self.send_error(404)
        names = sorted(name for name in NAMES if name.startswith(asked["prefix"]))
        start = int(asked.get("pageToken", 0))
        page = {
            "kind": "storage#objects",
            "items": [_object(name) for name in names[start : start + PAGE]],
        }
        if start + PAGE < len(names):
            page["nextPageToken"] = str(start + PAGE)
        content = json.dumps(page).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return None

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Stay silent."""


def _object(name: str) -> dict[str, str]:
    return {
        "kind": "storage#object", "name": name, "bucket": "gels", "size": str(len(name)),
        "updated": "2024-02-03T04:05:06.500Z", "etag": "x",
    }  # fmt: skip


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Objects)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {"token": "anon", "endpoint_url": f"http://127.0.0.1:{server.server_port}"}
    monkeypatch.setitem(fsspec.config.conf, "gs", settings)
    yield "gs://gels"
    server.shutdown()
    server.server_close()


def test_all_pages_of_a_folder(bucket: str) -> None:
    found = list(list_below(to_path(f"{bucket}/train"), "a"))
    assert [file.path for file in found] == [f"gs://gels/train/a/{n}.png" for n in range(5)]
    assert {file.size for file in found} == {len("train/a/0.png")}
    assert {file.mtime_ns // 10**9 for file in found} == {1_706_933_106}
