"""Download of an evaluation set from a local server and from a folder."""

from __future__ import annotations

import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lic_train.data import download
from lic_train.data.download import KODAK, PublicSet, from_folder, from_web, main, obtain
from lic_train.errors import DataError

FILES = {f"{name}.png": name.encode() * 1000 for name in ("one", "two", "three")}
SUMS = {name: sha256(data).hexdigest() for name, data in FILES.items()}
SHARED = Path(__file__).parents[2] / "shared" / "data" / "kodak"


@pytest.fixture
def server(monkeypatch):
    """An address, the files it serves, and the requested names."""
    monkeypatch.setenv("no_proxy", "*")
    served, asked = dict(FILES), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rpartition("/")[2]
            asked.append(name)
            data = served.get(name)
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *arguments):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/set", served, asked
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def small_set(monkeypatch):
    monkeypatch.setitem(download.SETS, "kodak", PublicSet("http://127.0.0.1:1/", SUMS))


def there(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_command_downloads_and_verifies_and_keeps_complete_files(server, small_set, tmp_path, capsys):
    base, _, asked = server
    command = ["kodak", "--to", str(tmp_path / "kodak"), "--base", base]
    assert main(command) == 0
    assert there(tmp_path / "kodak") == FILES
    assert sorted(asked) == sorted(FILES)
    assert main(command) == 0
    assert len(asked) == 3
    assert "0 new" in capsys.readouterr().out


def test_continues_after_an_interruption_and_replaces_damaged_files(server, tmp_path):
    base, served, asked = server
    del served["two.png"]
    with pytest.raises(DataError, match=r"two\.png.*Not Found"):
        obtain(SUMS, tmp_path, from_web(base))
    assert there(tmp_path) == {"one.png": FILES["one.png"]}
    served["two.png"] = FILES["two.png"]
    (tmp_path / "three.png").write_bytes(FILES["three.png"][:-1])
    asked.clear()
    assert obtain(SUMS, tmp_path, from_web(base)) == 2
    assert asked == ["two.png", "three.png"]
    assert there(tmp_path) == FILES


def test_file_with_wrong_checksum_is_discarded(server, tmp_path):
    base, served, _ = server
    served["one.png"] = b"<html>moved</html>"
    with pytest.raises(DataError, match=SUMS["one.png"]):
        obtain(SUMS, tmp_path, from_web(base))
    assert there(tmp_path) == {}


def test_unreachable_server_is_reported_without_a_traceback(small_set, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    assert main(["kodak", "--to", str(tmp_path / "kodak")]) == 2
    message = capsys.readouterr().err
    assert "Cannot download http://127.0.0.1:1/one.png" in message
    assert "--from" in message
    assert there(tmp_path / "kodak") == {}


def test_from_a_folder(small_set, tmp_path, capsys):
    origin = tmp_path / "origin"
    origin.mkdir()
    for name, data in FILES.items():
        (origin / name).write_bytes(data)
    assert main(["kodak", "--to", str(tmp_path / "copy"), "--from", str(origin)]) == 0
    assert there(tmp_path / "copy") == FILES
    (origin / "two.png").unlink()
    assert main(["kodak", "--to", str(tmp_path / "other"), "--from", str(origin)]) == 2
    assert "two.png" in capsys.readouterr().err


def test_destination_that_is_not_writable_raises(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    origin = tmp_path / "origin"
    origin.mkdir()
    (origin / "one.png").write_bytes(FILES["one.png"])
    with pytest.raises(DataError, match="Cannot write"):
        obtain({"one.png": SUMS["one.png"]}, tmp_path / "file", from_folder(origin))


def test_kodak_checksums_equal_the_published_ones():
    # Published value of `sha256sum kodim*.png | sha256sum` for the files of r0k.us.
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(KODAK.items()))
    assert sha256(listing.encode()).hexdigest() == "3eaa5bd52eb8c894d351cf607028f5d3d80e778fd0267eeff8c73d66539a25d5"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared")
def test_kodak_from_the_shared_folder(tmp_path):
    assert obtain(KODAK, tmp_path, from_folder(SHARED)) == 24
