"""A store that is away for a while is waited for: what may be repeated is, for some minutes."""

import re
import sys
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_exponential

from instsel.console import log
from instsel.errors import InputError, StudyError

T = TypeVar("T")

RETRY_SECONDS = 300.0
FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0
# Names and HTTP statuses in the text of pyarrow's errors, which are of one class. An upload that is not known any more
# was completed by a request whose answer was lost, and may be made again.
AWAY = re.compile(
    r"AWS Error (NETWORK_CONNECTION|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|SLOW_DOWN|THROTTLING|REQUEST_TIMEOUT"
    r"|NO_SUCH_UPLOAD|UNKNOWN \(HTTP status (408|429|5\d\d)\))"
)
PERMANENT_ERRORS = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|INVALID_SIGNATURE|REQUEST_EXPIRED"
    r"|SIGNATURE_DOES_NOT_MATCH|MISSING_AUTHENTICATION_TOKEN|UNRECOGNIZED_CLIENT|UNKNOWN \(HTTP status 40[013]\))"
)
# Of each kind of store, what gives a process the right to use it.
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
    "abfs": "AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or what azure-identity reads",
}
NO_BUCKET = re.compile(r"AWS Error NO_SUCH_BUCKET|[Bb]ucket '[^']*' not found")


def retrying(uri: str, call: Callable[[], T]) -> T:
    """The result of a call that may be repeated, made again while the store behind `uri` is away.

    Away is: connections are refused, break off or time out, or the answer is that the server cannot answer now.

    Raises:
        StudyError: the store was away for `RETRY_SECONDS`.
        InputError: the store refuses the credentials, or has no such bucket.
        OSError: anything else, at once.
    """
    retrying = Retrying(
        retry=retry_if_exception(is_away),
        wait=wait_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
        stop=stop_before_delay(RETRY_SECONDS),
        before_sleep=partial(_warn_once, uri),
        reraise=True,
    )
    try:
        return retrying(call)
    except OSError as error:
        _refuse(uri, error)
        if not is_away(error):
            raise
        raise StudyError(
            f"{uri}: the store has not answered for {RETRY_SECONDS / 60:.0f} minutes ({error}); "
            "everything finished before stays valid: run the same command again when it does, and it resumes"
        ) from error


def is_away(error: BaseException) -> bool:
    """Whether an error says that a store cannot be reached or cannot answer at the moment."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and AWAY.search(str(error)) is not None


def _refuse(uri: str, error: OSError) -> None:
    if isinstance(error, PermissionError) or PERMANENT_ERRORS.search(str(error)):
        scheme = uri.partition("://")[0]
        kind = {"gs": "gcs", "abfss": "abfs", "az": "abfs"}.get(scheme, scheme)
        raise InputError(
            f"{uri}: the store refuses ({error}); give every machine credentials that may read and write there, in "
            f"its environment ({CREDENTIALS.get(kind, 'as its package reads them')}) or by its role"
        ) from error
    if NO_BUCKET.search(str(error)):
        raise no_such_bucket(uri) from error


def no_such_bucket(uri: str) -> InputError:
    """Return the error that a bucket is not there."""
    return InputError(f"{uri}: there is no such bucket; make it, or correct its name")


def _warn_once(uri: str, state: RetryCallState) -> None:
    if state.attempt_number > 1 or state.outcome is None:
        return
    text = (
        f"{uri}: the store does not answer ({state.outcome.exception()}); trying for {RETRY_SECONDS / 60:.0f} minutes"
    )
    log.warning(text)
    # The log is there only once the study's folder is.
    print(text, file=sys.stderr, flush=True)  # noqa: T201
