"""Loops tell how far they are to whoever listens in their thread."""

from threading import Thread

from regrow.common.progress import as_part, tell_part, telling_parts, told

Told = list[tuple[str, int, int]]


def test_a_loop_tells_how_many_items_are_done() -> None:
    heard: Told = []
    with telling_parts(lambda *part: heard.append(part)):
        assert list(told("ab", "reading, letter")) == ["a", "b"]
    assert heard == [
        ("reading, letter", 0, 2), ("reading, letter", 1, 2), ("reading, letter", 2, 2),
    ]  # fmt: skip
    list(told("ab", "reading, letter"))  # nobody listens any more
    assert len(heard) == 3


def test_what_has_no_parts_is_told_when_it_begins_and_ends() -> None:
    heard: Told = []
    with telling_parts(lambda *part: heard.append(part)), as_part("loading"):
        assert heard == [("loading", 0, 1)]
    assert heard[1:] == [("loading", 1, 1)]


def test_the_inner_listener_hears_alone() -> None:
    outer: Told = []
    inner: Told = []
    with telling_parts(lambda *part: outer.append(part)):
        with telling_parts(lambda *part: inner.append(part)):
            tell_part("a", 0, 1)
        tell_part("b", 0, 1)
    assert (inner, outer) == ([("a", 0, 1)], [("b", 0, 1)])


def test_another_thread_is_not_heard() -> None:
    heard: Told = []
    with telling_parts(lambda *part: heard.append(part)):
        thread = Thread(target=tell_part, args=("a", 0, 1))
        thread.start()
        thread.join()
    assert heard == []
