"""Runs every test against what build.sh built, and ends in one line: "N passed, N failed" (", N skipped").

tests/run.py [WORD…]    only the tests whose name has one of the words; --list names them

Each test is a program that prints "ok NAME", "not ok NAME - why" or "skip NAME - why" lines. Programs run four at a
time, each with a time-out; one that dies, or prints nothing and fails, counts as a failure of its own.
"""
import concurrent.futures
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTS, BUILD = ROOT / "tests", ROOT / "build"
sys.path.insert(0, str(TESTS))
PYTHON = sys.executable


class Program:
    def __init__(self, name, argv, timeout, slow=1.0, env=None):
        self.name, self.argv, self.timeout, self.slow, self.env = name, [str(a) for a in argv], timeout, slow, env or {}

    def run(self):
        """(passed, failed, skipped, text for failures)."""
        # Debian's nginx and its like are in sbin, which not everybody's PATH has
        env = {**os.environ, "SLOW": str(self.slow), "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin",
               "PYTHONDONTWRITEBYTECODE": "1", **self.env}
        began = time.monotonic()
        p = subprocess.Popen(self.argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, start_new_session=True)
        try:
            out, _ = p.communicate(timeout=self.timeout)
            late = False
        except subprocess.TimeoutExpired:
            late = True
            os.killpg(p.pid, signal.SIGKILL)
            out, _ = p.communicate()
        lines = out.decode("utf-8", "replace").splitlines()
        passed = [l for l in lines if l.startswith("ok ")]
        failed = [l for l in lines if l.startswith("not ok ")]
        skipped = [l for l in lines if l.startswith("skip ")]
        text = [f"{self.name}: {l}" for l in failed + skipped]
        if late:
            failed.append("late")
            text.append(f"{self.name}: not ok - not done after {self.timeout:.0f} s; last: {lines[-3:]}")
        elif p.returncode != 0 and not failed:
            failed.append("died")
            text.append(f"{self.name}: not ok - ended with {p.returncode}:\n    " + "\n    ".join(lines[-40:]))
        elif not passed and not failed and not skipped:
            if p.returncode == 0 and self.name.startswith(("fuzz", "unit")):
                passed.append("whole")
            else:
                failed.append("silent")
                text.append(f"{self.name}: not ok - ran no test: {lines[-5:]}")
        print(f"{self.name}: {len(passed)} passed, {len(failed)} failed, {len(skipped)} skipped"
              f" ({time.monotonic() - began:.1f} s)", flush=True)
        return len(passed), len(failed), len(skipped), text


def programs():
    out = []
    for variant, slow in (("test", 1.0), ("asan", 3.0)):
        binary = BUILD / variant / "sallyport"
        sanitizers = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"} if slow > 1 else {}
        for path in sorted((TESTS / "real").glob("*_test.py")):
            out.append(Program(f"{variant} real/{path.stem}", [PYTHON, TESTS / "real/real.py", binary, path],
                               480 + 120 * slow, slow))
        for path in sorted((TESTS / "wire").glob("*.lua")):
            if path.stem != "dump":
                out.append(Program(f"{variant} wire/{path.stem}", [PYTHON, TESTS / "wire/harness.py", binary, path],
                                   180 * slow, slow))
        for path in sorted((TESTS / "unit").glob("*_test.lua")):
            out.append(Program(f"{variant} unit/{path.stem}", [binary, "lua", TESTS / "unit/run.lua", path],
                               60 * slow, slow, sanitizers))
    out.append(Program("clang wire/injection", [PYTHON, TESTS / "wire/harness.py", BUILD / "clang/sallyport",
                                                TESTS / "wire/injection.lua"], 120))     # that compiler's build works too
    for path in sorted((TESTS / "unit").glob("*.c")):
        out.append(Program(f"unit/{path.stem}", [BUILD / "unit" / path.stem], 120, env={"ASAN_OPTIONS": "detect_leaks=1"}))
    for path in sorted((TESTS / "fuzz").glob("*.c")):
        corpus = BUILD / "corpus" / path.stem
        corpus.mkdir(parents=True, exist_ok=True)
        out.append(Program(f"fuzz/{path.stem}",
                           [BUILD / "fuzz" / path.stem, "-max_total_time=6", "-rss_limit_mb=1024", "-verbosity=0",
                            "-print_final_stats=0", f"-artifact_prefix={corpus}-", corpus,
                            *[d for d in [TESTS / "fuzz/corpus" / path.stem] if d.is_dir()]], 90))
    return out


def untested():
    """A policy that no test names is a failure: it would be shipped on trust."""
    text = "".join(p.read_text("utf-8", "replace") for p in TESTS.rglob("*")
                   if p.suffix in (".lua", ".py", ".c") and "node_modules" not in p.parts)
    return [p.stem for p in sorted((ROOT / "policies").glob("*.lua")) if p.stem not in text]


def main(words):
    import certs
    import sallyport
    signal.signal(signal.SIGINT, signal.default_int_handler)          # a shell's background jobs ignore it; tests send it
    os.environ["TEST_TMP"] = tempfile.mkdtemp(prefix="sallyport-")    # short: a socket's path has 108 bytes
    certs.make(sallyport.certs())
    everything = programs()
    if "--list" in words:
        return print("\n".join(p.name for p in everything))
    chosen = [p for p in everything if not words or any(w in p.name for w in words)]
    chosen.sort(key=lambda p: -p.timeout)          # the long ones first, so that the end is not one waiting for another
    totals, texts = [0, 0, 0], []
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for result in pool.map(Program.run, chosen):
            for i in range(3):
                totals[i] += result[i]
            texts += result[3]
    for name in [] if words else untested():
        totals[1] += 1
        texts.append(f"policies/{name}.lua: not ok - no test names it")
    print("\n".join(texts))
    if totals[1]:
        print(f"what the failed tests left is in {os.environ['TEST_TMP']}")
    else:
        shutil.rmtree(os.environ["TEST_TMP"], ignore_errors=True)
    print(f"{totals[0]} passed, {totals[1]} failed" + (f", {totals[2]} skipped" if totals[2] else ""), flush=True)
    sys.exit(1 if totals[1] or not totals[0] else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
