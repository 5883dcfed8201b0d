"""Runs every test against what build.sh built, and ends in one line: "N passed, N failed" (", N skipped").

tests/run.py [WORD…]    only the tests whose name has one of the words; --list names them

Where root runs it, a part of the tests runs as a plain user that is made for it ("user …"), in a copy of the tree that is
that user's own: modes, owners and /proc say other things to root. In a run of everything root leaves that part of the plain
build's tests to it, and runs them under the sanitizers.

Each test is a program that prints "ok NAME", "not ok NAME - why" or "skip NAME - why" lines. Programs run seven at a
time, each with a time-out; one that dies, or prints nothing and fails, counts as a failure of its own.

In a run of everything a program that fails beside six others runs once more, alone: the machines are shared, and pause. Both
runs are told; the second counts. What a sanitizer reports, a secret that shows, a worker that died, and what fails in more than
AGAIN programs is not tried again.
"""
import concurrent.futures
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTS, BUILD = ROOT / "tests", ROOT / "build"
sys.path.insert(0, str(TESTS))
PYTHON = sys.executable


# What a plain user runs too: what commands and the server do with files, processes and limits; every Lua module; and
# of the wire what needs no root to begin with. The rest knows no user.
AS_USER = ("test real/command_test", "test real/git_test", "test real/run_test", "test unit/", "unit/store_test", "test wire/agents",
           "test wire/injection", "test wire/connect")
# Wire cases that run a second time with a client that speaks HTTP/2, where they mean the same there (wire/h2_wire.py): those
# files that have many such cases, and one server for them. In a run of everything the first few alone; a word names the others.
OVER_H2 = ("injection", "kept", "relay", "second_target")
OVER_H2_NAMED = ("body_parameter", "carriers", "early", "filters", "method_in_body", "mint", "paths", "presets", "rows", "rules",
                 "scrub", "signed_chunks")

# Files of real/ and wire/ that run no C which the others, the unit tests and the fuzz targets do not run under the sanitizers: in a
# run of everything they run on the plain build, for all has to end within 35 minutes on two cores. A word ("asan real/sdk") names them.
PLAIN_BUILD = ("authorization_test", "aws_test", "certificates_test", "claude_test", "clients_test", "commands_test", "help_test",
               "json_test", "kubernetes_test", "policies_test", "registry_test", "sdk_test", "store_test", "oauth", "tokens")


# Where the plain build would say what the sanitized one says: in a run of everything these files of real/ and wire/ run under the
# sanitizers alone, to end within these minutes.
SANITIZED_BUILD = ("agent_tls_test", "approval_test", "aws_calls_test", "aws_role_test", "budget_test", "control_test",
                   "door_mcp_test", "door_test", "doors_test", "files_test", "handshakes_test", "hmac_test", "huggingface_test",
                   "log_test", "mcp_import_test", "mcp_test", "mtls_test", "oauth_test", "operator_test", "proposal_test", "recipe_test",
                   "reflect_test", "rotation_test", "rows_test", "rules_test", "seal_hostile_test", "seal_test", "second_test",
                   "stand_in_test", "terminal_test", "tls13_test", "tokens_test", "upstream_proxy_test", "verify_test", "yarn_test",
                   "policies", "rows", "tls_upstream")

# Begin first: they take a minute or two of one core, and by their time-outs they would be the last, beside nothing.
FIRST = ("unit/tls_test", "unit/store_test", "unit/scrub_test", "unit/lua_test")

# Programs at a time: with four, two cores were idle for half of the time, for they wait for deadlines, clients and each other.
AT_ONCE = 7
AGAIN = 8               # programs that may be tried again: on a slow machine six have failed beside others, and none alone


class Program:
    user = None             # or a PlainUser

    def __init__(self, name, argv, timeout, slow=1.0, env=None):
        self.name, self.argv, self.timeout, self.slow, self.env = name, [str(a) for a in argv], timeout, slow, env or {}

    def as_user(self, user):
        argv = [a.replace(str(ROOT), str(user.root)) for a in self.argv]
        p = Program(user_name(self), user.prefix + argv, self.timeout, self.slow, self.env)
        p.user = user
        return p

    def run(self):
        """(passed, failed, skipped, text for failures)."""
        # Debian's nginx and its like are in sbin, which not everybody's PATH has
        env = {**(self.user.env if self.user else os.environ), "SLOW": str(self.slow),
               "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "PYTHONDONTWRITEBYTECODE": "1", **self.env}
        began = time.monotonic()
        p = subprocess.Popen(self.argv, cwd=self.user.root if self.user else ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, start_new_session=True)
        late = threading.Event()

        def end():
            late.set()
            os.killpg(p.pid, signal.SIGKILL)
        timer = threading.Timer(self.timeout, end)
        timer.start()
        with p.stdout:
            out = p.stdout.read()
        _, status, used = os.wait4(p.pid, 0)                       # it and what it waited for
        timer.cancel()
        p.returncode = os.waitstatus_to_exitcode(status)
        late = late.is_set()
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
              f" ({time.monotonic() - began:.1f} s, {used.ru_utime + used.ru_stime:.1f} of CPU)", flush=True)
        return len(passed), len(failed), len(skipped), text

    def judged(self, result):
        """Does what failed say enough: a sanitizer's report, a secret that shows (sallyport.leaks), a dead worker, a test without a clock?"""
        return "unit/" in self.name or self.name.startswith("fuzz") or any(
            w in l for l in result[3] for w in ("Sanitizer", "runtime error", " shows ", "a worker died"))


def programs(words=()):
    out = []
    for variant, slow in (("test", 1.0), ("asan", 3.0)):
        binary = BUILD / variant / "sallyport"
        sanitizers = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"} if slow > 1 else {}
        for path in sorted((TESTS / "real").glob("*_test.py")):
            if not words and path.stem in (PLAIN_BUILD if sanitizers else SANITIZED_BUILD):
                continue
            out.append(Program(f"{variant} real/{path.stem}", [PYTHON, TESTS / "real/real.py", binary, path],
                               480 + 120 * slow, slow))
        for path in sorted((TESTS / "wire").glob("*.lua")):
            if path.stem != "dump" and (words or path.stem not in (PLAIN_BUILD if sanitizers else SANITIZED_BUILD)):
                out.append(Program(f"{variant} wire/{path.stem}", [PYTHON, TESTS / "wire/harness.py", binary, path],
                                   180 * slow, slow))
        for path in sorted((TESTS / "unit").glob("*_test.lua")):
            out.append(Program(f"{variant} unit/{path.stem}", [binary, "lua", TESTS / "unit/run.lua", path],
                               60 * slow, slow, sanitizers))
    for name in OVER_H2 + (OVER_H2_NAMED if words else ()):
        out.append(Program(f"test wire/{name} over HTTP/2", [PYTHON, TESTS / "wire/harness.py", "--h2", BUILD / "test/sallyport",
                                                             TESTS / f"wire/{name}.lua"], 180))
    out.append(Program("clang wire/injection", [PYTHON, TESTS / "wire/harness.py", BUILD / "clang/sallyport",
                                                TESTS / "wire/injection.lua"], 120))     # that compiler's build works too
    for path in sorted((TESTS / "unit").glob("*_test.c")):
        out.append(Program(f"unit/{path.stem}", [BUILD / "unit" / path.stem], 300, env={"ASAN_OPTIONS": "detect_leaks=1"}))
    for path in sorted((TESTS / "fuzz").glob("*.c")):
        corpus = BUILD / "corpus" / path.stem
        corpus.mkdir(parents=True, exist_ok=True)
        out.append(Program(f"fuzz/{path.stem}",
                           [BUILD / "fuzz" / path.stem, "-max_total_time=6", "-rss_limit_mb=1024", "-verbosity=0",
                            "-print_final_stats=0", f"-artifact_prefix={corpus}-", corpus,
                            *[d for d in [TESTS / "fuzz/corpus" / path.stem] if d.is_dir()]], 90))
    return out


class PlainUser:
    """A user of this run's own. Raises OSError or CalledProcessError where none can be made."""

    def __init__(self):
        self.name, self.root = f"sallyport-{os.getpid()}", pathlib.Path(tempfile.mkdtemp(prefix="spu-"))
        self.made = False
        try:
            self.call("useradd", "--system", "--no-create-home", "--home-dir", self.root, "--shell", "/bin/sh", self.name)
            self.made = True
            entry = pwd.getpwnam(self.name)
            self.uid = entry.pw_uid
            self.prefix = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", "--"]
            (self.root / "tmp").mkdir()
            (self.root / "build/unit").mkdir(parents=True)
            for name in ("tests", "policies", "lua", "README.md", "build.sh", "build/test", "build/unit/store_test", "build/resolve.so",
                         *(f"build/{p.name}" for p in BUILD.glob("certs-*"))):
                self.call("cp", "-RL", ROOT / name, self.root / name)
            self.call("chown", "-R", f"{entry.pw_uid}:{entry.pw_gid}", self.root)
            self.call("chmod", "-R", "u+rwX", self.root)
            # It must be able to get there: a temporary directory below root's own is no place for it.
            self.call(*self.prefix, self.root / "build/test/sallyport", "version")
        except (OSError, subprocess.CalledProcessError):
            self.remove(keep=False)
            raise
        self.env = {k: v for k, v in os.environ.items() if k in ("LANG", "LC_ALL", "TERM")}
        self.env.update(HOME=str(self.root), USER=self.name, LOGNAME=self.name, TEST_TMP=str(self.root / "tmp"))

    @staticmethod
    def call(*argv):
        subprocess.run([str(a) for a in argv], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.PIPE, text=True)

    def left(self):
        """Its processes that still run. The user is this run's own, so they are the tests'."""
        found = []
        for p in pathlib.Path("/proc").glob("[0-9]*/status"):
            try:
                text = p.read_text()
            except OSError:
                continue
            if f"\nUid:\t{self.uid}\t" in text and "\nState:\tZ" not in text:
                found.append(int(p.parent.name))
        return found

    def left_names(self):
        return [pathlib.Path(f"/proc/{pid}/comm").read_text().strip() for pid in self.left() if os.path.exists(f"/proc/{pid}/comm")]

    def remove(self, keep):
        for pid in self.left() if self.made else []:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        if self.made:
            subprocess.run(["userdel", self.name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if not keep:
            shutil.rmtree(self.root, ignore_errors=True)


def user_name(program):
    return "user " + program.name.removeprefix("test ")


def plain_user(everything, words):
    """The user and its programs, or nobody and why not."""
    part = [p for p in everything if p.name.startswith(AS_USER) and (not words or any(w in user_name(p) for w in words))]
    if os.getuid() != 0 or not part:
        return None, [], None
    try:
        user = PlainUser()
    except subprocess.CalledProcessError as e:
        return None, [], f"{e.cmd[0]}: {(e.stderr or '').strip()[-300:] or e.returncode}"
    except (OSError, KeyError) as e:
        return None, [], str(e)
    return user, [p.as_user(user) for p in part], None


def untested():
    """A policy that no test names is a failure: it would be shipped on trust."""
    text = "".join(p.read_text("utf-8", "replace") for p in TESTS.rglob("*")
                   if p.suffix in (".lua", ".py", ".c") and "node_modules" not in p.parts)
    return [p.stem for p in sorted((ROOT / "policies").rglob("*.lua")) if p.stem not in text]


def main(words):
    import certs
    import sallyport
    signal.signal(signal.SIGINT, signal.default_int_handler)          # a shell's background jobs ignore it; tests send it
    os.environ["TEST_TMP"] = tempfile.mkdtemp(prefix="sallyport-")    # short: a socket's path has 108 bytes
    certs.make(sallyport.certs())
    everything = programs(words)
    if "--list" in words:
        return print("\n".join(p.name for p in everything))
    chosen = [p for p in everything if not words or any(w in p.name for w in words)]
    user, part, why = plain_user(everything, words)
    if user and not words:       # of what a plain user runs on the plain build, root runs the one under the sanitizers
        sanitized = {p.name.removeprefix("asan ") for p in chosen if p.name.startswith("asan ")}
        chosen = [p for p in chosen if not (p.name.startswith("test ") and p.name.startswith(AS_USER)
                                            and p.name.removeprefix("test ") in sanitized)]
    chosen += part
    chosen.sort(key=lambda p: (p.name.removeprefix("user ") not in FIRST, -p.timeout))          # the long ones first, so that the end is not one waiting for another
    totals, texts = [0, 0, 0], []
    if why:
        totals[2] += 1
        texts.append(f"as a plain user: skip - none could be made: {why}")
    try:
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            results = list(pool.map(Program.run, chosen))
        again = [i for i, r in enumerate(results) if r[1]]
        if words or len(again) > AGAIN or any(chosen[i].judged(results[i]) for i in again):
            again = []
        for i in again:
            texts += [l.replace(": not ok ", ": again, alone, for beside others it failed: ", 1) for l in results[i][3] if ": not ok " in l]
            results[i] = chosen[i].run()
        for result in results:
            for i in range(3):
                totals[i] += result[i]
            texts += result[3]
    except BaseException:
        if user:
            user.remove(keep=True)
        raise
    for name in [] if words else untested():
        totals[1] += 1
        texts.append(f"policies/{name}.lua: not ok - no test names it")
    if user:
        texts += [f"the plain user's tests left a process: {name}" for name in user.left_names()]
        user.remove(keep=totals[1] > 0 and any((user.root / "tmp").iterdir()))
    print("\n".join(texts))
    if totals[1]:
        print(f"what the failed tests left is in {os.environ['TEST_TMP']}{f' and {user.root}/tmp' if user and user.root.exists() else ''}")
    else:
        shutil.rmtree(os.environ["TEST_TMP"], ignore_errors=True)
    print(f"{totals[0]} passed, {totals[1]} failed" + (f", {totals[2]} skipped" if totals[2] else ""), flush=True)
    sys.exit(1 if totals[1] or not totals[0] else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
