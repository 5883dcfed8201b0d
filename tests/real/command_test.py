"""The type command: helper programs of the operator's, as shell and Python scripts."""
import os
import pathlib
import sys
import time

import sallyport
from real import wait

OURS = os.getpid()                       # ends each duration: the same test runs beside this one, on another build

def arrange(t, programs, *fields, serve=True, upstream=None, workers=1):
    s, up = t.proxy(serve=False, upstream=upstream, workers=workers)
    folder = s.dir / "helpers"
    folder.mkdir(mode=0o755)
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    s.folder = folder
    s.flags = ["--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}"]
    if fields:
        s.cli("credential", "add", "c", "--type", "command", "--host", "api.test", *fields)
    if serve:
        s.serve(*s.flags, "--helpers", folder)
    s.canaries += ["canary-printed-1", "canary-printed-2"]
    return s, up


SHELL = """#!/bin/sh
echo run >> {log}
printf '{{"Authorization": "Bearer canary-printed-1", "X-Team": "%s"}}' "$2"
echo canary-printed-2 >&2
"""

PYTHON = """#!%s
import json, os, sys
fds = sorted(int(n) for n in os.listdir("/proc/self/fd"))
print(json.dumps({"X-Env": "%%d" %% len([n for n in os.environ if n != "LC_CTYPE"]), "X-Cwd": os.getcwd(), "X-Fds": " ".join(map(str, fds)),
                  "X-Args": "|".join(sys.argv[1:]), "X-In": repr(sys.stdin.read()), "X-Err": os.readlink("/proc/self/fd/2"),
                  "X-Group": str(os.getpid() == os.getpgrp())}))
""" % sys.executable


def together(s, fields=b""):
    """The answers, each a 200, to eight requests of which all were sent before one was answered."""
    wires, answers = [s.tunnel() for _ in range(8)], []
    for w in wires:
        w.send(b"GET /x HTTP/1.1\r\nHost: api.test\r\n" + fields + b"Connection: close\r\n\r\n")
    for w in wires:
        got = b""
        while part := w.recv(10):
            got += part
        assert got.startswith(b"HTTP/1.1 200"), got[:300]
        answers.append(got)
        w.close()
    return answers


def test_headers(t):
    """a shell script's headers go out; it runs once for all who wait, and not again within its ttl"""
    s, up = arrange(t, {"sh-helper": ""}, "program=sh-helper", "arguments=--team 'blue team'", workers=2)
    log = s.dir / "runs"
    (s.folder / "sh-helper").write_text(SHELL.format(log=log).replace("printf", "sleep 0.3; printf"))
    together(s, b"Authorization: Bearer placeholder\r\nx_team: red\r\n")
    assert len(up.requests) == 8 and log.read_text() == "run\n"
    for q in up.requests:
        assert q.get("authorization") == "Bearer canary-printed-1" and q.get("x-team") == "blue team" and q.get("x_team") is None, q.fields
    assert "canary" not in s.cli("credential", "show", "c").stdout


def test_surroundings(t):
    """no environment, no descriptors, in /, a group of its own, nothing to read"""
    s, up = arrange(t, {"py": PYTHON}, "program=py", """arguments=a "b c" 'd "e"' *""")
    assert s.request().status == 200
    q = up.requests[-1]
    assert q.get("x-env") == "0" and q.get("x-cwd") == "/" and q.get("x-args") == 'a|b c|d "e"|*' and q.get("x-in") == "''", q.fields
    assert q.get("x-err") == "/dev/null" and q.get("x-group") == "True", q.fields
    # its own file (3), what Python has it opened for, and the folder that lists them: nothing of ours
    assert set(q.get("x-fds").split()) <= {"0", "1", "2", "3", "4", "5"}, q.fields


def refused(s, up, word):
    r = s.request()
    assert r.status == 502 and r.get("x-sallyport-error") == "injection_failed" and word in r.body.decode(), (r.status, r.body)
    assert b"canary" not in r.body and not up.requests


def test_failures(t):
    """each way to fail is named, nothing is sent, and nothing that was printed shows"""
    for text, word in [
            ("#!/bin/sh\necho canary-printed-1; echo canary-printed-2 >&2; exit 7\n", "program failed"),
            ("#!/bin/sh\necho '{\"X\": \"canary-printed-1'\n", "JSON"), ("#!/bin/sh\necho '[]'\n", "JSON"), ("#!/bin/sh\necho '{}'\n", "JSON"),
            ("#!/bin/sh\necho '{\"X\": 5}'\n", "JSON"), ("#!/bin/sh\necho '{\"X\": {\"a\": \"b\"}}'\n", "JSON"),
            ("#!/bin/sh\necho '{\"X\": \"a\\\\r\\\\nb\"}'\n", "JSON"), ("#!/bin/sh\necho '{\"X y\": \"a\"}'\n", "JSON"),
            ("#!/bin/sh\necho '{\"Host\": \"evil.test\"}'\n", "JSON"), ("#!/bin/sh\necho '{\"X\": \"a\", \"x\": \"b\"}'\n", "JSON"),
            ("#!/bin/sh\nhead -c 70000 /dev/zero | tr '\\0' x\n", "64 KiB"), ("#!/nowhere\n", "program failed")]:
        s, up = arrange(t, {"p": text}, "program=p")
        refused(s, up, word)
        if "exit 7" in text:
            assert "exit=7" in s.log(), s.log()


def test_timeout(t):
    """one that does not end is killed, with whatever it started"""
    s, up = arrange(t, {"p": f"#!/bin/sh\nsleep 55.5{OURS} &\nsleep 55.5{OURS}\n"}, "program=p", "timeout=1")
    start = time.monotonic()
    refused(s, up, "in time")
    assert time.monotonic() - start < 5 * sallyport.SLOW
    wait(lambda: not sleeping(f"55.5{OURS}"), 5, "its end")


def test_no_descendant_lives_on(t):
    """who left the program's session is ended too, whether the run ends by itself or by its timeout"""
    started = f"setsid sleep 55.6{OURS} >/dev/null & setsid sh -c 'setsid sleep 55.7{OURS} & sleep 55.7{OURS}' >/dev/null & sleep 55.6{OURS} >/dev/null &\n"
    seen = f"until grep -qs 55.6{OURS} /proc/[0-9]*/cmdline && grep -qs 55.7{OURS} /proc/[0-9]*/cmdline; do sleep 0.05; done\n"
    s, up = arrange(t, {"p": "#!/bin/sh\n" + started + seen + "echo '{\"X\": \"a\"}'\n"}, "program=p", "timeout=9")
    assert s.request().status == 200
    assert not sleeping(f"55.6{OURS}") and not sleeping(f"55.7{OURS}")        # before the answer, so there is nothing to wait for
    s, up = arrange(t, {"p": "#!/bin/sh\n" + started + f"exec sleep 55.8{OURS}\n"}, "program=p", "timeout=2")
    refused(s, up, "in time")
    assert not any(map(sleeping, (f"55.6{OURS}", f"55.7{OURS}", f"55.8{OURS}")))


def test_a_run_ends_no_other(t):
    """who left a program's session lives while another run goes on, for it may be that one's, and is ended with the last"""
    s, up = arrange(t, {"quick": "#!/bin/sh\necho '{\"X\": \"a\"}'\n", "slow": ""})
    go = s.dir / "go"
    (s.folder / "slow").write_text(f"#!/bin/sh\nsh -c 'setsid sleep 55.3{OURS} >/dev/null & exit'\n"
                                   f"until [ -e {go} ]; do sleep 0.05; done\necho '{{\"X\": \"b\"}}'\n")
    for name in ("quick", "slow"):
        s.cli("credential", "add", name, "--type", "command", "--host", "api.test", "--path", "/" + name, f"program={name}")
    w = s.tunnel()
    w.send(b"GET /slow HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n")
    wait(lambda: sleeping(f"55.3{OURS}"), 8, "what the slow program started")
    assert s.request(target="/quick").status == 200
    assert sleeping(f"55.3{OURS}")
    go.touch()
    assert w.recv(10).startswith(b"HTTP/1.1 200")
    wait(lambda: not sleeping(f"55.3{OURS}"), 5, "the end of what it left")


def test_a_killed_worker(t):
    """a program does not outlive the worker that runs it"""
    s, up = arrange(t, {"p": f"#!/bin/sh\nexec sleep 55.8{OURS}\n"}, "program=p")
    w = s.tunnel()
    w.send(b"GET / HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n")
    wait(lambda: sleeping(f"55.8{OURS}"), 8, "the program")
    s.may_die = "yes"
    os.kill(children(s.process.pid)[0], 9)
    wait(lambda: not sleeping(f"55.8{OURS}"), 5, "its end")


def sleeping(word):
    for p in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if p.read_bytes() == f"sleep\0{word}\0".encode():
                return True
        except OSError:
            pass
    return False


def test_whose_program(t):
    """no folder, no such file, a link out of it, a file or folder that others may write to"""
    good = "#!/bin/sh\necho '{\"X\": \"a\"}'\n"
    s, up = arrange(t, {"p": good}, "program=p", serve=False)
    s.serve(*s.flags)
    refused(s, up, "serve --helpers DIR")
    for spoil, word in [(lambda s: (s.folder / "p").unlink(), "no such program"), (lambda s: (s.folder / "p").chmod(0o644), "no such program"),
                        (lambda s: ((s.folder / "p").unlink(), (s.folder / "p").symlink_to("/bin/true")), "no such program"),
                        (lambda s: (s.folder / "p").chmod(0o777), "other users"), (lambda s: s.folder.chmod(0o777), "other users")]:
        s, up = arrange(t, {"p": good}, "program=p")
        spoil(s)
        refused(s, up, word)
    s, up = arrange(t, {"p": good}, serve=False)
    for fields, words in [(["program=../p"], ["program", "path"]), (["program=/bin/sh"], ["program"]), (["program=p", "arguments='a"], ["arguments", "quote"]), ([], ["program", "missing"])]:
        r = s.cli("credential", "add", "x", "--type", "command", "--host", "x.test", *fields, check=False)
        assert r.returncode == 2 and all(w in r.stderr for w in words), (fields, r.stderr)
    s.folder.chmod(0o777)
    r = s.cli("serve", "--helpers", s.folder, "--listen", "127.0.0.1:0", check=False)
    assert r.returncode == 1 and "helpers" in r.stderr, r.stderr


def test_trial(t):
    """credential test runs it too, without a server"""
    s, up = arrange(t, {"p": "#!/bin/sh\necho '{\"X-Key\": \"canary-printed-1\"}'\n"}, "program=p", serve=False)
    s.cli("set", "upstream-ca", sallyport.certs() / "root.pem")
    s.cli("set", "connect-to", f"api.test:443:127.0.0.1:{up.port}")
    r = s.cli("credential", "test", "c", "https://api.test/", "--helpers", s.folder)
    assert "200" in r.stdout and "x-key" in r.stdout and "canary" not in r.stdout, r.stdout
    assert up.requests[-1].get("x-key") == "canary-printed-1"


def test_trial_after_mending(t):
    """credential test shows what is, not what it said a second ago"""
    s, up = arrange(t, {"p": "#!/bin/sh\nexit 3\n"}, "program=p", serve=False)
    s.cli("set", "upstream-ca", sallyport.certs() / "root.pem")
    s.cli("set", "connect-to", f"api.test:443:127.0.0.1:{up.port}")
    trial = ["credential", "test", "c", "https://api.test/"]
    assert "without a folder" in s.cli(*trial, check=False).stderr
    trial += ["--helpers", s.folder]
    for _ in range(3):
        assert "its program failed" in s.cli(*trial, check=False).stderr
    (s.folder / "p").write_text("#!/bin/sh\necho '{\"X-Key\": \"canary-printed-1\"}'\n")
    assert "status  200" in s.cli(*trial).stdout


def children(pid):
    """From stat, which everybody may read: the server is not dumpable, so most of its /proc/PID is root's."""
    found = []
    for p in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            if p.read_text().rsplit(")", 1)[1].split()[1] == str(pid):
                found.append(int(p.parent.name))
        except OSError:
            pass
    return sorted(found)
