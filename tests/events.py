"""Reading event files of TensorBoard back, record by record, without TensorBoard."""

from pathlib import Path


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """What the event files of a folder hold, in order: name, step and value of each that is not 0."""
    from tensorboardX.proto.event_pb2 import Event

    found: list[tuple[str, int, float]] = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        place = 0
        while place < len(data):
            size = int.from_bytes(data[place : place + 8], "little")
            event = Event.FromString(data[place + 12 : place + 12 + size])
            place += 16 + size
            found += [
                (value.tag, event.step, value.simple_value) for value in event.summary.value if value.simple_value
            ]
    return found
