"""Fuzz one target, guided by coverage, in this process; or feed it one file again.

    python tests/reliability/fuzz TARGET FOLDER [libFuzzer option ...]     fuzz; FOLDER keeps corpus and findings
    python tests/reliability/fuzz TARGET FILE                              repeat a finding; needs no atheris

Bounded: an input has a length (`Target.longest`), 10 s and 1 GiB. libFuzzer's options come after ours and win, such as
`-max_total_time=600 -seed=7`. Exit code 0: nothing found.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]


def end(status: int, _: int | None) -> None:
    """End at once, with what was printed written out."""
    ctypes.CDLL(None).fflush(None)
    os._exit(status)


END = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)(end)


def leave_pools_alone() -> None:
    """Have the end of this process not wait for pyarrow's threads.

    libFuzzer ends it through `exit`, which shuts their pool down, and holds Python's lock meanwhile. A thread that lets
    the bytes of the last input go waits for that lock: for ever. What is asked for here begins the pools; handlers of
    `exit` run in reverse order, so ours comes first.
    """
    import pyarrow as pa

    pa.cpu_count()
    pa.io_thread_count()
    ctypes.CDLL(None).on_exit(END, None)


def main(name: str, place: Path, options: list[str]) -> None:
    if place.is_file():
        import targets

        {**targets.TARGETS, "planted": targets.PLANTED}[name].feed(place.read_bytes())
        return
    import atheris

    # What is compiled (pyarrow, polars, pydantic) is called, but only Python code tells the fuzzer where it went.
    with atheris.instrument_imports(include=["ingestd", "targets", "tomllib"]):
        import targets
    from seeds import WORDS

    target = {**targets.TARGETS, "planted": targets.PLANTED}[name]
    corpus, seeds, words = place / "corpus", place / "seeds", place / "words"
    for folder in (corpus, seeds):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (seeds / f"{number:03}").write_bytes(seed[: target.longest])
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in WORDS))
    limits = [f"-max_len={target.longest}", "-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"]
    places = [f"-dict={words}", f"-artifact_prefix={place}/", str(corpus), str(seeds)]
    leave_pools_alone()
    atheris.Setup([sys.argv[0], *limits, *options, *places], target.feed)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
