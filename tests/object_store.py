"""An S3-compatible server in processes of its own, which can be taken away and given back.

moto keeps the objects; a forwarder stands in front of it. Without the forwarder connections are refused, and what is
under way breaks off, while the objects stay. A forwarder that is stopped takes connections and never answers.

A test asks for the fixture `object_store`, which has an empty bucket. The address is in the environment from the
moment this plugin is loaded, so that Ray's workers, which are started once, know it. A script uses the same class:

    from tests.object_store import ObjectStore
    from tests.ports import free_ports

    with ObjectStore(*free_ports(1)) as store:
        os.environ.update(store.environment)    # before Ray is started, on every node
        store.make_bucket("studies")
        ...                                     # start a study with `out: s3://studies/one`
        store.wait_for("studies", "one/warmup/started.json")
        store.refuse(20)                        # returns after 20 s, when it answers again; `store.hang(20)` alike
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from tests.ports import free_ports

HOST = "127.0.0.1"
FORWARDER = Path(__file__).with_name("forwarder.py")
START_SECONDS = 60.0
KEYS = {
    "AWS_ACCESS_KEY_ID": "TESTKEY",
    "AWS_SECRET_ACCESS_KEY": "testsecret",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_REGION": "us-east-1",
}


class ObjectStore:
    """A running store; `port` is the one that clients use.

    Attributes:
        behind: port of moto itself.
        environment: what a client's environment needs to find it.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.behind = next(free for free in free_ports(2) if free != port)
        self.environment = {**KEYS, "AWS_ENDPOINT_URL": f"http://{HOST}:{port}"}
        self._server = start("-m", "moto.server", "-H", HOST, "-p", str(self.behind))
        wait_for_port(self.behind)
        self._forwarder = self._forward()
        # Past the forwarder: the test sees what is there while clients see nothing.
        self.direct = pafs.S3FileSystem(
            access_key=KEYS["AWS_ACCESS_KEY_ID"],
            secret_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            region=KEYS["AWS_REGION"],
            endpoint_override=f"http://{HOST}:{self.behind}",
            allow_bucket_creation=True,
        )

    def __enter__(self) -> "ObjectStore":
        return self

    def __exit__(self, *error: object) -> None:
        for process in (self._forwarder, self._server):
            process.kill()
            process.wait()

    def make_bucket(self, name: str) -> None:
        """Make a bucket, for which no client has a way."""
        self.direct.create_dir(name)

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Every object of a bucket by key, directory markers left out."""
        infos = self.direct.get_file_info(pafs.FileSelector(bucket, recursive=True))
        found = {}
        for info in infos:
            if info.is_file:
                with self.direct.open_input_file(info.path) as stream:
                    found[info.path.removeprefix(f"{bucket}/")] = stream.read()
        return found

    def wait_for(self, bucket: str, key: str, seconds: float = 300.0) -> None:
        """Return when an object is there.

        Raises:
            TimeoutError: it has not come in that time.
        """
        ends = time.monotonic() + seconds
        while self.direct.get_file_info(f"{bucket}/{key}").type == pafs.FileType.NotFound:
            if time.monotonic() > ends:
                raise TimeoutError(f"{key} has not come in {seconds:.0f} s")
            time.sleep(0.02)

    def refuse(self, seconds: float) -> None:
        """Refuse connections and break off those that are open, for some seconds."""
        self.stop()
        time.sleep(seconds)
        self.go_on()

    def hang(self, seconds: float) -> None:
        """Take connections and answer nothing, for some seconds."""
        self._forwarder.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._forwarder.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Refuse connections until `go_on`."""
        self._forwarder.kill()
        self._forwarder.wait()

    def go_on(self) -> None:
        """Answer again, with everything that was there before."""
        self._forwarder = self._forward()

    def _forward(self) -> subprocess.Popen[bytes]:
        process = start(str(FORWARDER), str(self.port), str(self.behind))
        wait_for_port(self.port)
        return process


def meanwhile(do: Callable[[], None]) -> threading.Thread:
    """Do something beside the test, which joins the thread."""
    thread = threading.Thread(target=do)
    thread.start()
    return thread


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """Start a program of this Python, which prints nothing."""
    quiet = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, *arguments], stdout=quiet, stderr=quiet, env=_plain(os.environ))


def _plain(environment: Mapping[str, str]) -> dict[str, str]:
    """Without AWS's variables, by which moto would look for itself."""
    return {name: value for name, value in environment.items() if not name.startswith("AWS_")}


def wait_for_port(port: int) -> None:
    """Return when something listens on a port of this machine."""
    ends = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.02)


def pytest_configure() -> None:
    """Give the whole test run the address, in place of what is there: no test may reach a real store."""
    os.environ.update(KEYS, AWS_ENDPOINT_URL=f"http://{HOST}:{free_ports(1)[0]}")
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def running_store() -> Iterator[ObjectStore]:
    """The store of the whole test run."""
    with ObjectStore(int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])) as store:
        yield store


@pytest.fixture
def object_store(running_store: ObjectStore) -> ObjectStore:
    """The store, with a bucket `studies` that has nothing in it."""
    running_store.make_bucket("studies")
    running_store.direct.delete_dir_contents("studies")
    return running_store


@pytest.fixture
def keys_are_checked(object_store: ObjectStore) -> Iterator[None]:
    """moto asks who it is, of whom it knows nobody."""

    def after(requests: float) -> None:
        url = f"http://127.0.0.1:{object_store.behind}/moto-api/reset-auth"
        headers = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, str(requests).encode(), headers), timeout=30).close()

    after(0)
    yield
    after(1e9)
