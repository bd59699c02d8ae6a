"""Downloads, from a server on this machine that misbehaves on request."""

from __future__ import annotations

import hashlib
import http.server
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import pytest

from jaxnet.data import download, download_original
from jaxnet.data.images.downloads import ORIGINALS
from jaxnet.errors import InputError, UsageError

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Site:
    """What the server does, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    cut: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    length: bool = True
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            made.asked.append(asked)
            code = made.codes.pop(0) if made.codes else 200
            if code != 200:
                self.send_error(code)
                return
            begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and made.ranges else 0
            if begin >= len(made.content):
                self.send_error(416)
                return
            body = made.content[begin:]
            self.send_response(206 if begin else 200)
            if begin:
                last = len(made.content) - 1
                self.send_header("Content-Range", f"bytes {begin}-{last}/{len(made.content)}")
            if made.length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: made.cut.pop(0)] if made.cut else body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}/some/cats.bin"
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_is_fetched_once(site, tmp_path):
    file = download(site.url, sha256=SHA256, folder=tmp_path)
    assert file == tmp_path / "cats.bin"
    assert file.read_bytes() == CONTENT
    assert download(site.url, md5=MD5.upper(), folder=tmp_path) == file
    assert site.asked == [None]
    assert [p.name for p in tmp_path.iterdir() if p.name[0] != "."] == ["cats.bin"]


def test_it_goes_into_the_cache_by_default(site, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXNET_CACHE_DIR", str(tmp_path))
    assert download(site.url, sha256=SHA256, name="c") == tmp_path / "data" / "c"
    monkeypatch.delenv("JAXNET_CACHE_DIR")
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    if sys.platform == "linux":
        expected = tmp_path / "home" / "jaxnet" / "data" / "cats.bin"
        assert download(site.url, sha256=SHA256) == expected
    monkeypatch.setenv("JAXNET_CACHE_DIR", "off")
    with pytest.raises(UsageError, match="JAXNET_CACHE_DIR switches the cache off"):
        download(site.url, sha256=SHA256)


@pytest.mark.parametrize("length", [True, False])
def test_an_interrupted_download_goes_on_where_it_stopped(site, tmp_path, length):
    site.cut, site.length = [1000, 5000], length
    file = download(site.url, sha256=SHA256, folder=tmp_path, pause=0)
    assert file.read_bytes() == CONTENT
    if length:
        assert site.asked == [None, "bytes=1000-", "bytes=6000-"]
    # Without a length nobody can tell that something is missing but by the checksum.


def test_so_does_one_of_an_earlier_process(site, tmp_path):
    site.cut = [1000]
    with pytest.raises(InputError, match="the connection ended after 1000 of 1024000 bytes"):
        download(site.url, sha256=SHA256, folder=tmp_path, attempts=1)
    assert not (tmp_path / "cats.bin").exists()
    assert download(site.url, sha256=SHA256, folder=tmp_path).read_bytes() == CONTENT
    assert site.asked == [None, "bytes=1000-"]


def test_a_server_that_cannot_go_on_begins_anew(site, tmp_path):
    site.cut, site.ranges = [1000], False
    file = download(site.url, sha256=SHA256, folder=tmp_path, pause=0)
    assert file.read_bytes() == CONTENT
    assert site.asked == [None, "bytes=1000-"]


@pytest.mark.parametrize("left", [CONTENT, b"x" * len(CONTENT), b"x" * 2_000_000, b"x" * 10])
def test_whatever_an_earlier_process_left_behind_ends_well(site, tmp_path, left):
    (tmp_path / "cats.bin.part").write_bytes(left)
    file = download(site.url, sha256=SHA256, folder=tmp_path, pause=0)
    assert file.read_bytes() == CONTENT
    assert not (tmp_path / "cats.bin.part").exists()
    assert len(site.asked) == (1 if left == CONTENT else 2)


def test_a_copy_that_was_changed_is_fetched_anew(site, tmp_path, caplog):
    (tmp_path / "cats.bin").write_bytes(CONTENT[:-1] + b"x")
    assert download(site.url, sha256=SHA256, folder=tmp_path).read_bytes() == CONTENT
    assert "cats.bin isn't what it has to be" in caplog.text


def test_a_file_that_was_tampered_with_is_refused(site, tmp_path):
    site.content = CONTENT[:-1] + b"x"
    with pytest.raises(InputError, match=f"damaged or changed: its sha256 is .*expected {SHA256}"):
        download(site.url, sha256=SHA256, folder=tmp_path, pause=0)
    assert len(site.asked) == 1
    assert not [p.name for p in tmp_path.iterdir() if p.name[0] != "."]


def test_a_mirror_helps(site, tmp_path):
    site.codes = [404]
    mirror = site.url.replace("/some/", "/other/")
    file = download(site.url, mirror, sha256=SHA256, folder=tmp_path)
    assert file.read_bytes() == CONTENT
    assert len(site.asked) == 2


@pytest.mark.parametrize(("codes", "asked"), [([503, 429], 3), ([500], 2)])
def test_a_busy_server_is_asked_again(site, tmp_path, codes, asked):
    site.codes = codes
    download(site.url, sha256=SHA256, folder=tmp_path, pause=0)
    assert len(site.asked) == asked


def test_what_is_not_there_is_asked_for_once(site, tmp_path):
    site.codes = [404] * 9
    with pytest.raises(InputError) as caught:
        download(site.url, sha256=SHA256, folder=tmp_path)
    message = str(caught.value)
    assert f"{site.url}: 404 Not Found" in message
    assert f"(sha256 {SHA256}) and put it there: {tmp_path / 'cats.bin'}" in message
    assert len(site.asked) == 1


def test_without_a_network_the_message_says_what_to_do_by_hand(tmp_path):
    with socket.socket() as unused:  # bound, but nobody listens
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/cats.bin"
        with pytest.raises(InputError) as caught:
            download(url, md5=MD5, folder=tmp_path, attempts=2, pause=0)
    assert "Connection refused" in str(caught.value)
    assert f"Fetch it yourself (md5 {MD5}) and put it there: {tmp_path}" in str(caught.value)


def test_those_who_want_the_same_file_wait_for_one_another(site, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        fetch = partial(download, site.url, sha256=SHA256, folder=tmp_path)
        files = list(pool.map(lambda _: fetch(), range(8)))
    assert set(files) == {tmp_path / "cats.bin"}
    assert site.asked == [None]


def test_a_bar_is_shown_on_request(site, tmp_path, capsys):
    download(site.url, sha256=SHA256, folder=tmp_path, progress=True)
    assert "cats.bin" in capsys.readouterr().err


def test_a_download_needs_a_checksum_and_a_web_address(tmp_path):
    with pytest.raises(UsageError, match=r"expected sha256=..."):
        download("http://127.0.0.1/a", folder=tmp_path)
    with pytest.raises(UsageError, match="http:// or https://, got 'file:///etc/passwd'"):
        download("file:///etc/passwd", md5=MD5, folder=tmp_path)


def test_the_originals_of_a_dataset_come_into_a_folder(site, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXNET_CACHE_DIR", str(tmp_path))
    base = site.url.removesuffix("/cats.bin")
    files = {"a.bin": MD5, "b.bin": MD5}
    monkeypatch.setattr(
        "jaxnet.data.images.downloads.ORIGINALS",
        {"cats": type(ORIGINALS["mnist"])(bases=(base,), files=files)},
    )
    folder = download_original("cats")
    assert folder == tmp_path / "data" / "cats"
    assert {p.name for p in folder.iterdir() if p.name[0] != "."} == set(files)
    with pytest.raises(UsageError, match="unknown dataset 'cat'; did you mean 'cats'"):
        download_original("cat")


def test_every_original_has_an_address_and_a_checksum():
    for original in ORIGINALS.values():
        assert all(base.startswith("http") and not base.endswith("/") for base in original.bases)
        assert all(len(md5) == 32 for md5 in original.files.values())
