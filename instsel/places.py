"""Where a study's files are: what a place in a study file may look like."""

import re

SECRET = re.compile(r"^(?:s3://[^/]*[:@]|[\w+.-]+://[^/@]*:[^/@]*@)")
OPTIONS = re.compile(r"^s3://[^?]*\?[^/]*=")


def checked_place(place: str) -> str:
    """The place itself, a path, URI, glob or hub id.

    Raises:
        ValueError: it is a URI with a secret, which would stand in manifests and logs, or an S3 URI with options. The
            message does not repeat it.
    """
    if SECRET.match(place):
        scheme = place.partition("://")[0]
        raise ValueError(
            f"a {scheme}:// URI with a key or password, which would be written into manifests and logs; remove it from "
            "the URI and put it into the environment of every machine (S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )
    if OPTIONS.match(place):
        raise ValueError(
            f"{place.partition('?')[0]} has options after a question mark, which are not read; put the endpoint into "
            "AWS_ENDPOINT_URL, in the environment of every machine"
        )
    return place
