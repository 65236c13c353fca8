"""Whatever goes wrong in a command is one line, an exit code and nothing that steers a terminal."""

import os
import subprocess
import sys

import pytest

ERRORS = [
    (ValueError("no such label"), "no such label"),
    (FileNotFoundError(2, "No such file", "a.png"), "[Errno 2] No such file: 'a.png'"),
    (RuntimeError("expected 3 channels"), "RuntimeError: expected 3 channels (--traceback shows where)"),
    (TypeError("'int' object is not iterable"), "TypeError: 'int' object is not iterable (--traceback shows where)"),
    (KeyError("depths"), "KeyError: 'depths' (--traceback shows where)"),
    (AttributeError("no shape"), "AttributeError: no shape (--traceback shows where)"),
    (OverflowError("too large"), "OverflowError: too large (--traceback shows where)"),
    (RecursionError("too deep"), "RecursionError: too deep (--traceback shows where)"),
    (AssertionError(), "AssertionError (--traceback shows where)"),
    (MemoryError(), "MemoryError (--traceback shows where)"),
    (ValueError(), "ValueError (--traceback shows where)"),
]
STEERING = "a\nb\r\x1b[31mred\x1b]0;title\x07 \x00\x7f\x9b2J \u202egnp.exe \u2028line"


@pytest.fixture
def fails(run_in, tmp_path, monkeypatch):
    """Run a command in which this error is raised → exit code, stdout, stderr."""

    def run(error, *words):
        def write_card(*_, **__):
            raise error

        monkeypatch.setattr("gkgnet_hf.hub.card.write_card", write_card)
        return run_in(tmp_path, "card", "model", *words)

    return run


@pytest.mark.parametrize(("error", "message"), ERRORS, ids=lambda value: type(value).__name__)
def test_any_error_is_one_line_and_exit_code_2(fails, error, message):
    assert fails(error) == (2, "", f"gkgnet-hf: {message}\n")


def test_an_error_shows_where_it_comes_from_when_asked(fails):
    for error, message in ERRORS:
        code, out, err = fails(error, "--traceback")
        assert (code, out) == (2, "")
        assert "Traceback (most recent call last)" in err
        assert "in write_card" in err
        assert err.splitlines()[-1] == f"gkgnet-hf: {message}"


def test_a_message_cannot_steer_the_terminal(fails):
    for error in (ValueError(STEERING), KeyError(STEERING), OSError(2, STEERING, STEERING)):
        _, _, err = fails(error)
        assert err.endswith("\n")
        assert err[:-1].isprintable()
    _, _, err = fails(ValueError(STEERING))
    assert "\\x1b[31mred" in err
    assert "\\u202egnp.exe" in err


def test_a_message_has_an_end(fails):
    _, _, err = fails(ValueError("x" * 10_000_000))
    assert len(err) < 3000


def test_an_interrupt_is_one_line_and_exit_code_130(fails):
    assert fails(KeyboardInterrupt()) == (130, "", "gkgnet-hf: stopped\n")


def command(*words, **options):
    return subprocess.run([sys.executable, "-m", "gkgnet_hf", *words], stderr=subprocess.PIPE, text=True, **options)


def test_a_reader_that_leaves_is_no_error(tmp_path):
    reads, writes = os.pipe()
    os.close(reads)
    done = command("--help", stdout=writes)
    os.close(writes)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_finds_no_room_is_one_line():
    with open("/dev/full", "w") as full:
        done = command("--help", stdout=full)
    assert (done.returncode, done.stderr) == (2, "gkgnet-hf: [Errno 28] No space left on device\n")
