"""Runs a file of tests with real clients and servers: its functions named test_… take a Fixture.

tests/real/real.py BINARY FILE_test.py [WORD…]
"""
import importlib.util
import inspect
import pathlib
import shutil
import subprocess
import sys
import time
import traceback

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent.parent), str(pathlib.Path(__file__).resolve().parent)]
import sallyport  # noqa: E402


class Skip(Exception):
    pass


class Fixture:
    """What a test asks for is put away when it ends: proxies are searched for canaries and sanitizer reports first."""

    def __init__(self, binary):
        self.binary, self.made, self.processes = binary, [], []

    def proxy(self, *args, **options):
        s, up = sallyport.new(self.binary, *args, **options)
        self.made.append(s)
        return s, up

    def bare(self, workers=1):
        """A data directory and nothing more."""
        s = sallyport.Sallyport(self.binary, workers)
        self.made.append(s)
        return s

    def skip(self, why):
        raise Skip(why)

    def need(self, *commands):
        for c in commands:
            if not shutil.which(c):
                raise Skip(f"{c} is not installed")

    def start(self, argv, log, **options):
        p = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=open(log, "ab"),
                             stderr=subprocess.STDOUT, start_new_session=True, **options)
        self.processes.append(p)
        return p

    def finish(self):
        problems = []
        for s in self.made:
            try:
                if s.alive():
                    problems += s.leaks()
                problems += filter(None, [s.stop()])
            except Exception as e:
                problems.append(f"{type(e).__name__}: {e}")
                s.stop(0)
            if hasattr(s, "upstream"):
                s.upstream.stop()
            if not problems:
                s.clean()
        for p in self.processes:
            p.terminate()
            try:
                p.wait(3)
            except subprocess.TimeoutExpired:
                p.kill()
        return problems


def wait(condition, seconds=5, what="it"):
    """Until condition() is true; an assertion past the time."""
    end = time.monotonic() + seconds * sallyport.SLOW
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
        time.sleep(0.01)
    return value


def verdict(what, name, why=""):
    print(f"{what} {name}{why and ' - ' + why}".replace("\n", "\\n").replace("\r", "\\r"), flush=True)


def main(binary, path, words):
    spec = importlib.util.spec_from_file_location("tests_here", path)
    module = importlib.util.module_from_spec(spec)
    label = pathlib.Path(path).stem.removesuffix("_test")
    sys.modules["real"] = sys.modules["__main__"]
    spec.loader.exec_module(module)
    for fname, test in inspect.getmembers(module, inspect.isfunction):
        if not fname.startswith("test_"):
            continue
        name = f"{label}: {(test.__doc__ or fname[5:].replace('_', ' ')).strip().splitlines()[0]}"
        if words and not any(w in name or w in fname for w in words):
            continue
        fixture, why = Fixture(binary), ""
        try:
            test(fixture)
            what = "ok"
        except Skip as e:
            what, why = "skip", str(e)
        except Exception as e:
            at = traceback.extract_tb(e.__traceback__)
            here = next((f for f in reversed(at) if f.filename == str(path)), at[-1])
            what, why = "not ok", f"line {here.lineno}: {type(e).__name__}: {e}"[:3000]
        problems = fixture.finish()
        if problems and what != "skip":          # a sanitizer's report stands beside what it made fail
            what, why = "not ok", "; ".join([*filter(None, [why]), *problems])[:3000]
        verdict(what, name, why)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
