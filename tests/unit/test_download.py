"""Fetching files: what can be had is kept, what cannot is told, and the next run continues."""

import errno
import hashlib
import io
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import web
from PIL import Image

from headimpact.data import download
from headimpact.data.download import RemoteFile, fetch, image_fault
from headimpact.errors import InputError
from headimpact.files import MACHINE

CONTINUE = "Run the same command again: only what is missing is fetched."


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, size=(48, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


IMAGES = {f"/{number}.jpg": jpeg(number) for number in range(6)}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(download, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(download, "LONGEST_WAIT_SECONDS", 0.002)


@pytest.fixture
def site():
    with web.serve(IMAGES) as site:
        yield site


def remote(site: web.Site, *paths: str) -> list[RemoteFile]:
    return [RemoteFile(site.url + path, path[1:]) for path in paths or IMAGES]


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_every_file_arrives_and_progress_counts_them(site, tmp_path):
    seen = []
    files = remote(site)
    assert fetch(files, tmp_path, progress=lambda each: (seen.append(file) or file for file in each)) == 6
    assert {"/" + name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == IMAGES
    assert seen == files
    assert all("headimpact" in agent for agent in site.agents)


def test_what_is_there_is_not_fetched_again(site, tmp_path):
    fetch(remote(site), tmp_path, image_fault)
    assert fetch(remote(site), tmp_path, image_fault) == 0
    assert set(site.requests.values()) == {1}


def test_nothing_to_fetch(tmp_path):
    assert fetch([], tmp_path / "none") == 0


def test_folders_are_made(site, tmp_path):
    fetch([RemoteFile(f"{site.url}/0.jpg", "a/b/c.jpg")], tmp_path)
    assert names(tmp_path) == ["a/b/c.jpg"]


@pytest.mark.parametrize(
    "fault", [web.drop, web.truncate, web.status(500), web.status(503), web.status(429), web.status(408)]
)
def test_a_passing_fault_is_retried(site, tmp_path, fault):
    site.fail("/2.jpg", fault, times=2)
    assert fetch(remote(site), tmp_path, image_fault) == 6
    assert site.requests["/2.jpg"] == 3
    assert (tmp_path / "2.jpg").read_bytes() == IMAGES["/2.jpg"]


@pytest.mark.parametrize(
    ("fault", "asked", "reason"),
    [
        (web.drop, 3, "the connection dropped in the middle of the file"),
        (web.truncate, 3, "damaged or truncated image"),
        (web.status(500), 3, "500 Internal Server Error"),
        (web.status(404), 1, "404 Not Found"),
        (web.status(403), 1, "403 Forbidden"),
        (web.status(204), 1, "204 No Content"),
        (web.replace(b"<html>"), 3, "not a PNG or JPEG image"),
    ],
)
def test_a_lasting_fault_stops_no_other_file_and_the_next_run_continues(site, tmp_path, fault, asked, reason):
    site.fail("/2.jpg", fault)
    with pytest.raises(InputError) as caught:
        fetch(remote(site), tmp_path, image_fault, attempts=3)
    message = str(caught.value)
    assert message.startswith(f"1 of 6 files could not be fetched, the other 5 are in {tmp_path}: {site.url}/2.jpg: ")
    assert reason in message
    assert message.endswith(CONTINUE)
    assert site.requests["/2.jpg"] == asked
    assert names(tmp_path) == ["0.jpg", "1.jpg", "3.jpg", "4.jpg", "5.jpg"]

    site.mend()
    site.requests.clear()
    assert fetch(remote(site), tmp_path, image_fault) == 1
    assert site.requests == {"/2.jpg": 1}


def test_of_many_failures_the_first_few_are_told(site, tmp_path):
    for path in IMAGES:
        site.fail(path, web.status(404))
    with pytest.raises(InputError) as caught:
        fetch(remote(site), tmp_path)
    message = str(caught.value)
    assert message.startswith("6 of 6 files")
    assert [f"/{number}.jpg: 404" in message for number in range(6)] == [True] * 3 + [False] * 3
    assert "and 3 more" in message


def test_a_server_that_does_not_answer_in_time(site, tmp_path):
    site.fail("/2.jpg", site.stall)
    with pytest.raises(InputError, match=r"1 of 6 .*/2.jpg: .*(timed out|no answer)"):
        fetch(remote(site), tmp_path, timeout=0.2, attempts=2)
    assert len(names(tmp_path)) == 5


def test_a_wrong_hash_is_told_with_both(site, tmp_path):
    right, wrong = hashlib.sha256(IMAGES["/0.jpg"]).hexdigest(), hashlib.sha256(b"other").hexdigest()
    site.fail("/0.jpg", web.replace(b"other"))
    files = [RemoteFile(f"{site.url}/0.jpg", "0.jpg", sha256=right.upper()), *remote(site, "/1.jpg")]
    with pytest.raises(InputError, match=rf"/0.jpg: wrong hash: SHA-256 {wrong}, expected {right}\. Run the same"):
        fetch(files, tmp_path)
    assert names(tmp_path) == ["1.jpg"]
    site.mend()
    assert fetch(files, tmp_path) == 1


def test_a_wrong_size_is_told(site, tmp_path):
    size = len(IMAGES["/0.jpg"])
    files = [RemoteFile(f"{site.url}/0.jpg", "0.jpg", size=size)]
    site.fail("/0.jpg", web.truncate)
    with pytest.raises(InputError, match=rf"{size // 2} bytes, expected {size}"):
        fetch(files, tmp_path)
    site.fail("/0.jpg", web.replace(bytes(2 * size)))
    with pytest.raises(InputError, match=f"larger than {size} bytes"):
        fetch(files, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("known", ["size", "sha256", "verify"])
def test_a_damaged_file_that_is_there_is_fetched_again(site, tmp_path, known):
    body = IMAGES["/0.jpg"]
    facts = {"size": {"size": len(body)}, "sha256": {"sha256": hashlib.sha256(body).hexdigest()}}.get(known, {})
    (tmp_path / "0.jpg").write_bytes(body[:500])
    files = [RemoteFile(f"{site.url}/0.jpg", "0.jpg", **facts)]
    assert fetch(files, tmp_path, image_fault if known == "verify" else lambda path: None) == 1
    assert (tmp_path / "0.jpg").read_bytes() == body


def test_a_damaged_file_that_cannot_be_replaced_does_not_stay(site, tmp_path):
    (tmp_path / "0.jpg").write_bytes(IMAGES["/0.jpg"][:500])
    site.fail("/0.jpg", web.status(404))
    with pytest.raises(InputError, match="404 Not Found"):
        fetch(remote(site, "/0.jpg"), tmp_path, image_fault)
    assert names(tmp_path) == []


def test_a_full_disk_stops_at_once_and_leaves_no_part_of_a_file(site, tmp_path, monkeypatch):
    fetch(remote(site, "/0.jpg"), tmp_path)

    def write(stream, chunks, *_):
        stream.write(next(chunks))
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download, "_write", write)
        with pytest.raises(InputError) as caught:
            fetch(remote(site), tmp_path, workers=1)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / '1.jpg'} could not be stored: No space left on device.")
    assert "Make room" in message
    assert message.endswith(CONTINUE)
    assert names(tmp_path) == ["0.jpg"]
    assert site.requests["/5.jpg"] == 0
    assert fetch(remote(site), tmp_path) == 5


def test_no_file_is_larger_than_the_limit_whatever_its_server_sends(site, tmp_path):
    site.fail("/0.jpg", web.endless)
    with pytest.raises(InputError, match=r"/0\.jpg: larger than 200000 bytes"):
        fetch(remote(site), tmp_path, max_bytes=200_000)
    assert len(names(tmp_path)) == 5
    assert site.requests["/0.jpg"] == 1


def test_a_redirect_is_followed(site, tmp_path):
    site.fail("/0.jpg", web.redirect("/1.jpg"))
    fetch(remote(site, "/0.jpg"), tmp_path)
    assert (tmp_path / "0.jpg").read_bytes() == IMAGES["/1.jpg"]


@pytest.mark.parametrize("target", ["/0.jpg", "file:///etc/passwd"])
def test_a_redirect_that_leads_nowhere_is_told(site, tmp_path, target):
    site.fail("/0.jpg", web.redirect(target))
    with pytest.raises(InputError, match=r"/0\.jpg: the answer is malformed"):
        fetch(remote(site, "/0.jpg"), tmp_path)
    assert names(tmp_path) == []


def test_an_unknown_status_is_told(site, tmp_path):
    site.fail("/0.jpg", web.status(499))
    with pytest.raises(InputError, match=r"/0.jpg: 499\. Run"):
        fetch(remote(site, "/0.jpg"), tmp_path)


def test_without_a_server_it_gives_up_early(tmp_path):
    with web.serve({}) as site:
        gone = site.url
    files = [RemoteFile(f"{gone}/{number}", str(number)) for number in range(100)]
    with pytest.raises(InputError, match=r"^20 files in a row could not be reached.*Check the network.*only what is"):
        fetch(files, tmp_path, attempts=2)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "a.jpg", "http://", "http://[::1/a", ""])
def test_only_http_is_fetched(tmp_path, url):
    with pytest.raises(InputError, match="is no http or https address"):
        fetch([RemoteFile(url, "a.jpg")], tmp_path)


@pytest.mark.parametrize("path", ["/a.jpg", "../a.jpg", "a/../../b.jpg", "..\\a.jpg", "c:\\a.jpg", "", ".", "a\0b"])
def test_no_file_leaves_the_folder(tmp_path, path):
    with pytest.raises(InputError, match="Name the file relative to that folder"):
        fetch([RemoteFile("http://localhost/a.jpg", path)], tmp_path)


def test_no_two_files_have_one_path(tmp_path):
    files = [RemoteFile("http://localhost/a.jpg", "a.jpg"), RemoteFile("http://localhost/b.jpg", "./a.jpg")]
    with pytest.raises(InputError, match=r"b\.jpg: another file has the path './a\.jpg' too"):
        fetch(files, tmp_path)


def test_a_killed_download_continues(site, tmp_path):
    site.fail("/3.jpg", site.stall, times=1)
    program = f"""
from pathlib import Path
from headimpact.data.download import RemoteFile, fetch
files = [RemoteFile({site.url!r} + path, path[1:]) for path in {list(IMAGES)}]
fetch(files, Path({str(tmp_path)!r}), workers=1)
"""
    environment = {"PYTHONPATH": str(Path(download.__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    try:
        assert site.stalled.wait(60)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    site.hold.set()
    leftover = f".3.jpg.{MACHINE}.{process.pid}.tmp"
    assert names(tmp_path) == [leftover, "0.jpg", "1.jpg", "2.jpg"]

    (tmp_path / ".mine.tmp").touch()
    site.requests.clear()
    assert fetch(remote(site), tmp_path, image_fault) == 3
    assert site.requests == {"/3.jpg": 1, "/4.jpg": 1, "/5.jpg": 1}
    assert names(tmp_path) == [".mine.tmp", *(f"{number}.jpg" for number in range(6))]
    assert (tmp_path / "3.jpg").read_bytes() == IMAGES["/3.jpg"]


def test_an_error_in_between_stops_the_workers(site, tmp_path):
    def progress(files):
        yield files[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(remote(site), tmp_path, progress=progress)
    assert [name for name in names(tmp_path) if name.endswith(".tmp")] == []


def save(path: Path, image: Image.Image, form: str) -> Path:
    image.save(path, form)
    return path


def test_faults_of_images(tmp_path):
    image = Image.new("RGB", (64, 48))
    whole = save(tmp_path / "a.png", image, "PNG")
    assert image_fault(whole) is None
    assert image_fault(save(tmp_path / "a.jpg", image, "JPEG")) is None
    assert image_fault(save(tmp_path / "a.gif", image, "GIF")) == "not a PNG or JPEG image"
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:-30])
    assert image_fault(tmp_path / "cut.png").startswith("damaged or truncated image (")


# Of the first Pillow says nothing, of the second it warns, the third it refuses.
@pytest.mark.parametrize("side", [7_072, 10_000, 20_000])
def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path, side):
    image = save(tmp_path / "small.png", Image.new("1", (1, 1)), "PNG").read_bytes()
    header = image[12:16] + struct.pack(">II", side, side) + image[24:29]
    large = tmp_path / "large.png"
    large.write_bytes(image[:12] + header + struct.pack(">I", zlib.crc32(header)) + image[33:])
    assert image_fault(large) == "an image of more than 50 megapixels"
