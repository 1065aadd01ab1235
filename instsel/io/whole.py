"""Whether a table in a folder is whole, by the marks at its beginning and end."""

from pyarrow import fs as pafs

from instsel.io.store import Folder

# By ending of the name, what a file begins and ends with.
MARKS = {".parquet": b"PAR1", ".arrow": b"ARROW1"}


def is_whole(folder: Folder, name: str) -> bool:
    """Return whether a file is there, and a Parquet or Arrow file is not cut off.

    Tables are written whole or not at all; a disk that lost power or a copy that broke off leaves others. A few bytes
    are read, not the table; in an object store none, since an upload that breaks off leaves nothing.
    """
    path = f"{folder.path}/{name}"
    info = folder.filesystem.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        return False
    mark = next((mark for ending, mark in MARKS.items() if name.endswith(ending)), None)
    if mark is None or folder.is_object_store or not info.is_file:
        return True
    if info.size < 2 * len(mark):
        return False
    with folder.filesystem.open_input_file(path) as stream:
        begins = stream.read(len(mark)) == mark
        stream.seek(info.size - len(mark))
        return bool(begins and stream.read(len(mark)) == mark)


def whole_names(folder: Folder) -> set[str]:
    """Return the names of a folder without tables that are cut off."""
    return {name for name in folder.names() if is_whole(folder, name)}
