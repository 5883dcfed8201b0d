"""sallyport run: a command in a jail whose only way out is the proxy."""
import ctypes
import json
import os
import pathlib
import pty
import pwd
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import sallyport
from real import wait
from servers import node

PYTHON = "/usr/bin/python3"
ROOT = os.getuid() == 0
PLAIN = pwd.getpwnam("daemon") if ROOT else pwd.getpwuid(os.getuid())
AS_PLAIN = ["setpriv", f"--reuid={PLAIN.pw_uid}", f"--regid={PLAIN.pw_gid}", "--clear-groups", "--"] if ROOT else []
CANARY = "canary-jail-7d21c0"


class Jails:
    """A server with agent a, whose user is the plain one; run() is `sallyport run` as that user, or as root."""

    def __init__(self, t, workers=1, domains=()):
        t.need("setpriv", "curl")
        self.s, self.up = t.proxy(serve=False, workers=workers, domains=domains)
        s = self.s
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="spj-", dir="/var/tmp"))       # /tmp is another one in the jail
        self.dir.chmod(0o755)
        t.made.append(self)
        self.binary = self.dir / "sallyport"
        shutil.copy(s.binary, self.binary)
        self.control = self.dir / "control"
        s.env["SALLYPORT_CONTROL"] = str(self.control)
        s.credential({"name": "one", "env": ["API_TOKEN"], "secrets": {"token": CANARY}})
        if ROOT:
            s.cli("agent", "set", "a", "--uid", PLAIN.pw_uid)
        self.flags = ("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{self.up.port}",
                      "--connect-to", f"api.test:80:127.0.0.1:{self.up.port}")
        s.serve(*self.flags)
        self.env = {"PATH": "/usr/local/go/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(self.dir), "LANG": "C.UTF-8", "SALLYPORT_CONTROL": str(self.control),
                    "ASAN_OPTIONS": "detect_leaks=0"}
        why = self.run("true")
        if why.returncode == 1 and "sallyport:" in why.stderr and re.search("user namespaces|capabilities", why.stderr):
            t.skip("no jail can be made here: " + why.stderr.strip()[-200:])

    def argv(self, *argv, root=False, options=()):
        return [*([] if root else AS_PLAIN), str(self.binary), "run", "--agent", "a", *options, *(["--user", PLAIN.pw_name] if root else []), "--", *map(str, argv)]

    def run(self, *argv, root=False, options=(), env=None, timeout=30, cwd="/", **more):
        return subprocess.run(self.argv(*argv, root=root, options=options), env={**self.env, **(env or {})}, cwd=cwd, timeout=timeout * sallyport.SLOW,
                              stdin=more.pop("stdin", subprocess.DEVNULL), capture_output=True, text=True, **more)

    def python(self, code, *args, **how):
        """What the code prints, run in the jail."""
        r = self.run(PYTHON, "-c", code, *args, **how)
        assert r.returncode == 0, (r.returncode, r.stdout, r.stderr)
        return r.stdout.strip()

    def popen(self, *argv, **how):
        return subprocess.Popen(self.argv(*argv, root=how.pop("root", False)), env=self.env, cwd="/", **how)

    # for the fixture
    def alive(self):
        return False

    def stop(self, wait=0):
        return None

    def clean(self):
        shutil.rmtree(self.dir, ignore_errors=True)


def both(j):
    """As the plain user, and as root, who names that user."""
    return (False, True) if ROOT else (False,)


def test_the_proxy_is_the_way(t):
    """curl, with proxy variables, without, and without any variable, arrives with the credential attached; the token is none's
    to see; who is not allowed is told why; the request's record is the agent's"""
    j = Jails(t)
    if ROOT:        # the server knows whose the user is
        r = subprocess.run([a for a in j.argv("true") if a not in ("--agent", "a")], env=j.env, cwd="/", capture_output=True, text=True)
        assert r.returncode == 0, r
    for root in both(j):
        for argv in (["curl"], ["env", "-u", "HTTPS_PROXY", "-u", "https_proxy", "-u", "ALL_PROXY", "-u", "all_proxy", "curl"], ["env", "-i", "/usr/bin/curl"]):
            r = j.run(*argv, "-sS", "-H", "Authorization: Bearer placeholder", "https://api.test/way", root=root)
            assert r.returncode == 0, (argv, r)
            assert j.up.requests[-1].get("authorization") == f"Bearer {CANARY}", (argv, j.up.requests[-1])
        r = j.run("curl", "-sS", "https://other.test/", root=root)
        assert r.returncode != 0 or "host_not_allowed" in r.stdout, r
        names = j.run("getent", "hosts", "api.test", root=root).stdout, j.run("getent", "hosts", "other.test", root=root)
        assert re.match(r"198\.1[89]\.", names[0]) and names[1].returncode == 2, names
        env = j.run("env", root=root).stdout
        assert CANARY not in env and "sp_agt_" not in env and "\nAPI_TOKEN=" in "\n" + env and "HTTPS_PROXY=http://127.0.0.1:7080" in env, env
    assert j.s.wait_record({"agent": "a", "credential": "one", "path": "/way"})


PROBE = r"""
import ctypes, errno, fcntl, json, os, socket, platform
libc = ctypes.CDLL(None, use_errno=True)
NR = json.loads(NUMBERS)
def call(name, *a):
    if name not in NR: return "ENOSYS"
    r = libc.syscall(ctypes.c_long(NR[name]), *[ctypes.c_ulong(x) for x in a])
    return "done" if r >= 0 else errno.errorcode.get(ctypes.get_errno(), "?")
def sock(*a):
    try: socket.socket(*a).close()
    except OSError as e: return errno.errorcode[e.errno]
    return "done"
def pair(kind):
    try: socket.socketpair(socket.AF_UNIX, kind)
    except OSError as e: return errno.errorcode[e.errno]
    return "done"
def ioctl(request):
    r = libc.syscall(ctypes.c_long(NR["ioctl"]), ctypes.c_ulong(0), ctypes.c_ulong(request), b"x")
    return "done" if r >= 0 else errno.errorcode[ctypes.get_errno()]
out = {
  "unix": [sock(1, k) for k in (1, 2, 5)], "pair": [pair(1), pair(5)], "pair datagram": [pair(2), pair(3)],
  "tcp": [sock(2, 1), sock(2, 2), sock(10, 1), sock(16, 3, 0)],
  "raw": [sock(2, 3, 1), sock(10, 3, 58), sock(2, 10, 3)],
  "families": [sock(17, 3, 0x300), sock(40, 1), sock(38, 5), sock(31, 3), sock(44, 3), sock(29, 3, 1), sock(30, 1), sock(21, 5), sock(41, 2)],
  "netlink": [sock(16, 3, p) for p in (4, 6, 9, 12, 15, 16, 21)],
  "namespaces": [call("unshare", f) for f in (0x10000000, 0x40000000, 0x20000, 0x20000000, 0x8000000, 0x4000000, 0x2000000, 0x80)] + [call("setns", 0, 0), call("clone", 0x10000011, 0, 0, 0, 0)],
  "clone3": [call("clone3", 0, 0)],
  "calls": [call(n, 0, 0, 0, 0, 0) for n in ("mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsmount", "fsconfig", "fspick", "mount_setattr",
    "open_by_handle_at", "name_to_handle_at", "keyctl", "add_key", "request_key", "pidfd_getfd", "kcmp", "bpf", "perf_event_open", "userfaultfd", "syslog", "fanotify_init", "quotactl")],
  "uring": [call("io_uring_setup", 1, 0), call("io_uring_enter", 0, 0), call("io_uring_register", 0, 0)],
  "terminal": [ioctl(0x5412), ioctl(0x541c), ioctl(0x5423), ioctl(0x5452), ioctl((1 << 32) | 0x5412)],
  "protocols": [sock(2, 1, p) for p in (132, 256, 33)] + [sock(2, 2, p) for p in (136, 1, 115)],
  "first process": [call("ptrace", 16, 1, 0, 0), call("ptrace", 0x4206, 1, 0, 0)],
  "others' priority": [call("setpriority", 1, 0, 5), call("setpriority", 2, 0, 5)],
  "later": [libc.syscall(ctypes.c_long(n)) for n in (463, 467, 470, 0x40000000 | 39, 0x40000000 | 41)],
  "threads": [call("unshare", 0x400)],
}
print(json.dumps(out))
"""

REFUSED = {"unix": {"EACCES"}, "pair": {"done"}, "pair datagram": {"EACCES"}, "tcp": {"done"}, "raw": {"EPERM"}, "families": {"EAFNOSUPPORT"},
           "netlink": {"EAFNOSUPPORT"}, "namespaces": {"EPERM"}, "clone3": {"ENOSYS"}, "calls": {"EPERM"}, "uring": {"ENOSYS"}, "terminal": {"EPERM"},
           "protocols": {"EPROTONOSUPPORT"}, "first process": {"EPERM"}, "others' priority": {"EPERM"}, "later": {-1}, "threads": {"done"}}

NAMES = """unshare setns clone clone3 mount umount2 pivot_root chroot open_tree move_mount fsopen fsmount fsconfig fspick mount_setattr open_by_handle_at
name_to_handle_at keyctl add_key request_key pidfd_getfd kcmp bpf perf_event_open userfaultfd syslog fanotify_init quotactl io_uring_setup io_uring_enter
io_uring_register ioctl setpriority getsockopt ptrace fcntl pidfd_open pidfd_send_signal""".split()


def numbers(t):
    """The machine's numbers of system calls, from its own headers: { name: number }."""
    t.need("gcc")
    code = "#include <sys/syscall.h>\n#include <stdio.h>\nint main(void) {\n" + "".join(
        f"#ifdef SYS_{n}\nprintf(\"{n} %ld\\n\", (long)SYS_{n});\n#endif\n" for n in NAMES) + "}\n"
    with tempfile.TemporaryDirectory() as d:
        subprocess.run(["gcc", "-x", "c", "-o", f"{d}/n", "-"], input=code, text=True, check=True)
        return dict((l.split()[0], int(l.split()[1])) for l in subprocess.run([f"{d}/n"], capture_output=True, text=True).stdout.splitlines())


def test_system_calls(t):
    """Unix, packet, raw, vsock and netlink sockets, new namespaces, the mounts' calls, io_uring, keys, handles, what types into
    the terminal, calls that later kernels have and other ABIs' numbers: refused; pairs of connected sockets, TCP, UDP, threads are not"""
    j = Jails(t)
    for root in both(j):
        got = json.loads(j.python("NUMBERS = " + repr(json.dumps(numbers(t))) + "\n" + PROBE, root=root))
        for what, want in REFUSED.items():
            assert set(got[what]) == want, (what, got[what])


def test_other_abi(t):
    """a program of another ABI (32-bit calls) is ended: its numbers mean other calls"""
    if os.uname().machine != "x86_64":
        t.skip("int 0x80 is x86's")
    t.need("gcc")
    j = Jails(t)
    source = j.dir / "abi.c"
    source.write_text("int main(void) { long r; __asm__ volatile(\"int $0x80\" : \"=a\"(r) : \"a\"(20) : \"memory\"); return r > 0 ? 0 : 1; }\n")
    subprocess.run(["gcc", "-o", j.dir / "abi", source], check=True)
    (j.dir / "abi").chmod(0o755)
    if subprocess.run([j.dir / "abi"]).returncode != 0:
        t.skip("this kernel has no 32-bit calls")
    assert j.run(j.dir / "abi").returncode == -signal.SIGSYS


SOCKETS = r"""
import errno, json, os, socket, subprocess, sys
out = {}
def run(*argv):
    if len(sys.argv) > 2: return None
    try: r = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    except FileNotFoundError: return None
    return [r.returncode, r.stdout[-300:] + r.stderr[-300:]]
for name, path in json.loads(sys.argv[1]).items():
    try:
        s = socket.socket(socket.AF_UNIX); s.connect(path.replace("@", "\0", 1) if path.startswith("@") else path); out[name] = "connected"
    except OSError as e: out[name] = errno.errorcode[e.errno]
    out[name + " there"] = os.path.exists(path)
out["left"] = {k: v for k, v in os.environ.items() if k in ("DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK", "DISPLAY", "TMUX", "DOCKER_HOST", "WAYLAND_DISPLAY")}
out["systemd-run"] = run("systemd-run", "--user", "true")
out["dbus-send"] = run("dbus-send", "--session", "--dest=org.freedesktop.DBus", "--print-reply", "/", "org.freedesktop.DBus.ListNames")
out["tmux"] = run("tmux", "new-session", "-d", "true")
out["ssh-add"] = run("ssh-add", "-l")
out["docker ps"] = run("docker", "ps")
print(json.dumps(out))
"""


def test_unix_sockets(t):
    """D-Bus, docker's socket, tmux, ssh-agent, X11, abstract ones: none can be reached, in whatever folder they lie, and no variable
    names them; what runs outside gets nothing; --allow-unix lets in the one that is named, and nothing else that listens"""
    j = Jails(t)
    (j.dir / "in").mkdir()
    runtime = pathlib.Path(f"/run/user/{PLAIN.pw_uid}")
    places = {"bus": j.dir / "bus", "docker": j.dir / "in/docker.sock", "tmp": pathlib.Path(tempfile.mkdtemp()) / "agent.1"}
    if ROOT:
        pathlib.Path("/tmp/.X11-unix").mkdir(exist_ok=True)
        places["x11"] = pathlib.Path(f"/tmp/.X11-unix/X{os.getpid()}")
    listeners, hits = {}, []
    try:
        for name, path in {**places, "abstract": f"@spj-{os.getpid()}"}.items():
            listeners[name] = socket.socket(socket.AF_UNIX)
            listeners[name].bind("\0" + path[1:] if isinstance(path, str) else str(path))
            listeners[name].listen(8)
            if not isinstance(path, str):
                os.chmod(path, 0o777)
                path.parent.chmod(0o755)
        env = {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={places['bus']}", "SSH_AUTH_SOCK": str(places["tmp"]), "DISPLAY": ":99", "TMUX": f"{places['bus']},1,0",
               "DOCKER_HOST": f"unix://{places['docker']}", "WAYLAND_DISPLAY": "wayland-0"}
        names = {name: str(path) for name, path in {**places, "abstract": f"@spj-{os.getpid()}"}.items()}
        for root in both(j):
            got = json.loads(j.python(SOCKETS, json.dumps(names), env=env, root=root))
            assert all(got[name] == "EACCES" for name in names), got
            assert got["tmp there"] is False and got.get("x11 there", False) is False and got["left"] == {}, got
            for program in ("systemd-run", "dbus-send", "tmux", "ssh-add", "docker ps"):
                assert got[program] is None or got[program][0] != 0, (program, got[program])
        for s in listeners.values():
            hits += select.select([s], [], [], 0)[0]
        assert not hits, "nothing came to a socket outside"
        for path in (places["bus"], places["tmp"]):
            got = json.loads(j.python(SOCKETS, json.dumps(names), "sockets", env=env, options=["--allow-unix", path]))
            mine = next(n for n, p in names.items() if p == str(path))
            assert got[mine] == "connected", got
            assert all(got[n] != "connected" for n in names if n != mine), got
            assert ("SSH_AUTH_SOCK" in got["left"]) == (mine == "tmp"), got["left"]
    finally:
        for s in listeners.values():
            s.close()
        for p in places.values():
            p.unlink(missing_ok=True)
        shutil.rmtree(places["tmp"].parent, ignore_errors=True)
    for path in ("/nowhere/socket", j.dir, j.binary, "/dev/null"):      # a folder would let in what is made there later
        r = j.run("true", options=["--allow-unix", path])
        assert r.returncode == 1 and "no such socket" in r.stderr, r


FILES = r"""
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def try_(f, *a):
    try: r = f(*a); return r if isinstance(r, (str, list)) else "done"
    except OSError as e: return type(e).__name__
home, pid, outside = sys.argv[1], sys.argv[2], sys.argv[3]
status = dict(l.split(":\t", 1) for l in open("/proc/self/status").read().splitlines() if ":\t" in l)
print(json.dumps({
  "home": try_(os.listdir, home), "key": try_(open, home + "/key"), "store": try_(open, home + "/store/data.mdb"),
  "proc": sorted(int(p) for p in os.listdir("/proc") if p.isdigit()), "server": try_(os.kill, int(pid), 0), "group": try_(os.kill, -int(pid), 15), "all": try_(os.kill, -1, 0),
  "one": [try_(open, "/proc/1/" + n) for n in ("environ", "mem", "maps", "root/etc/passwd", "cwd/x")] + [try_(os.readlink, "/proc/1/ns/net"), try_(os.listdir, "/proc/1/fd")],
  # shared memory and queues of outside, by number and by key; what would make the kernel run a program, or root's files
  "ipc": [libc.shmctl(int(sys.argv[4]), 2, ctypes.create_string_buffer(256)), libc.msgctl(int(sys.argv[5]), 2, ctypes.create_string_buffer(256)), libc.shmget(0x53504a, 0, 0), libc.msgget(0x53504a, 0)],
  "written": [try_(open, p, "w") for p in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/sys/kernel/uevent_helper", "/sys/fs/cgroup/release_agent", "/proc/sysrq-trigger",
    "/sys/fs/cgroup/cgroup.subtree_control", "/proc/1/oom_score_adj")],
  "made": try_(os.mknod, "/tmp/disk", 0o60666, os.makedev(8, 0)),
  "kill init": try_(os.kill, 1, 9),
  "tmp": os.listdir("/tmp"), "run": sorted(os.listdir("/run")), "shm": os.listdir("/dev/shm"), "dev": sorted(os.listdir("/dev")), "outside": os.path.exists(outside),
  "runtime": [os.environ["XDG_RUNTIME_DIR"], os.stat(os.environ["XDG_RUNTIME_DIR"]).st_mode & 0o777],
  "cgroup": try_(open, "/sys/fs/cgroup/cgroup.procs", "w"), "links": sorted(os.listdir("/proc/self/net/dev_snmp6")) if os.path.isdir("/proc/self/net/dev_snmp6") else ["lo"],
  "caps": [status[n] for n in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")], "nnp": status["NoNewPrivs"], "seccomp": status["Seccomp"], "uid": os.getresuid(),
  "resolv": open("/etc/resolv.conf").read().split()[:2], "hosts": [l for l in open("/etc/nsswitch.conf") if l.startswith("hosts:")] if os.path.exists("/etc/nsswitch.conf") else [],
  "nscd": [os.path.exists(p) for p in ("/run/nscd/socket", "/var/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve", "/run/dbus/system_bus_socket")],
}))
"""


def test_files_and_processes(t):
    """the store, the key and the proxy's home, processes of others and the jail's first one, /tmp, /run, devices, control groups,
    capabilities: nothing of it is there to read, write or signal; the server goes on"""
    j = Jails(t)
    outside = pathlib.Path("/dev/shm") / f"spj-{os.getpid()}"
    outside.write_text("x")
    libc = ctypes.CDLL(None, use_errno=True)
    segment = libc.shmget(ctypes.c_int(0x53504a), 4096, 0o1666)
    queue = libc.msgget(ctypes.c_int(0x53504a), 0o1666)
    assert segment >= 0 and queue >= 0
    try:
        for root in both(j):
            # as the owner of the store itself, whom no mode keeps out, where that is not root
            env = {} if ROOT else {"SALLYPORT_HOME": str(j.s.home)}
            got = json.loads(j.python(FILES, j.s.home, j.s.process.pid, outside, segment, queue, root=root, env=env))
            got["written"] = set(got["written"])
            assert got["home"] in ([], "PermissionError", "FileNotFoundError") and got["key"] != "done" and got["store"] != "done", got
            assert max(got["proc"]) < 10 and got["server"] == "ProcessLookupError" == got["group"], got
            assert set(got["one"]) <= {"PermissionError"}, got["one"]
            assert got["tmp"] == [] and set(got["run"]) <= {"sallyport", "user"} and got["shm"] == [] and got["outside"] is False, got
            assert set(got["dev"]) <= {"null", "zero", "full", "random", "urandom", "tty", "console", "pts", "ptmx", "shm", "fd", "stdin", "stdout", "stderr"}, got["dev"]
            assert got["runtime"] == [f"/run/user/{PLAIN.pw_uid}", 0o700], got["runtime"]
            assert got["ipc"] == [-1] * 4 and got["written"] <= {"PermissionError", "OSError", "FileNotFoundError"} and got["made"] == "PermissionError", got
            assert got["cgroup"] != "done" and got["links"] == ["lo"], got
            assert set(got["caps"]) == {"0" * 16} and got["nnp"] == "1" and got["seccomp"] == "2" and set(got["uid"]) == {PLAIN.pw_uid}, got
            assert got["resolv"] == ["nameserver", "127.0.0.1"] and got["hosts"] in ([], ["hosts: files dns\n"]) and not any(got["nscd"]), got
        assert j.s.process.poll() is None and j.run("curl", "-sS", "https://api.test/").returncode == 0
    finally:
        outside.unlink()
        libc.shmctl(segment, 0, None)
        libc.msgctl(queue, 0, None)


def test_home_elsewhere(t):
    """the proxy's home is hidden under the names of other mounts that show it, too; a command cannot work in it"""
    if not ROOT:
        t.skip("another mount needs root")
    j = Jails(t)
    home = j.dir / "home/.sallyport"
    home.mkdir(parents=True)
    (home / "key").write_text("secret")
    (j.dir / "other").mkdir()
    for p in (home, home.parent):
        os.chown(p, PLAIN.pw_uid, PLAIN.pw_gid)
    (home / "key").chmod(0o644)
    script = 'mount --bind "$1/home" "$1/other" && shift && exec "$@"'
    env = {**j.env, "HOME": str(home.parent)}
    argv = j.argv("sh", "-c", f'cat {home}/key {j.dir}/other/.sallyport/key; echo rc $?')
    r = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", j.dir, *argv], env=env, cwd="/", capture_output=True, text=True)
    assert "secret" not in r.stdout and r.stdout == "rc 1\n", r
    r = subprocess.run(argv, env=env, cwd=home, capture_output=True, text=True)
    assert r.returncode == 1 and "hidden" in r.stderr, r
    # below the folder in which the command works, which comes back over the fresh /tmp
    with tempfile.TemporaryDirectory(prefix="spj-", dir="/tmp") as work:
        home = pathlib.Path(work) / "w/.sallyport"
        home.mkdir(parents=True)
        (home / "key").write_text("secret")
        (home.parent / "own").write_text("mine")
        for p in (pathlib.Path(work), home.parent, home, home / "key", home.parent / "own"):
            os.chown(p, PLAIN.pw_uid, PLAIN.pw_gid)
        r = subprocess.run(j.argv("sh", "-c", "cat own .sallyport/key; echo rc $?"), env={**j.env, "HOME": str(home.parent)}, cwd=home.parent,
                           capture_output=True, text=True)
        assert "secret" not in r.stdout and r.stdout.startswith("mine") and "rc 1" in r.stdout, r


def test_mounts_elsewhere(t):
    """a second /proc, /sys, terminals and devices of outside, mounted where a chroot or a container has its own, show nothing"""
    if not ROOT:
        t.skip("another mount needs root")
    j = Jails(t)
    for name in ("proc", "sys", "dev", "pts"):
        (j.dir / "root" / name).mkdir(parents=True)
    script = ('cd "$1/root" && mount -t proc proc proc && mount --rbind /sys sys && mount --rbind /dev dev && mount -t devpts devpts pts && '
              'ls proc | grep -c "^[0-9]" && shift && exec "$@"')
    for root in both(j):
        argv = j.argv("sh", "-c", f"cd {j.dir}/root; ls proc sys dev pts dev/shm; echo rc $?", root=root)
        r = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", j.dir, *argv], env=j.env, cwd="/", capture_output=True, text=True)
        assert int(r.stdout.split()[0]) > 5 and r.stdout.split()[1:] == ["rc", "2"] and "ermission" in r.stderr, r


def test_home_of_another(t):
    """root may run a command by the server of another user's home, which is hidden wherever its control socket is"""
    if not ROOT:
        t.skip("another user's home needs root")
    j = Jails(t)
    j.s.stop()
    j.s.home = pathlib.Path(shutil.copytree(j.s.home, j.dir / "served", ignore=shutil.ignore_patterns("control", "page")))
    j.s.env["SALLYPORT_HOME"] = str(j.s.home)
    for p in (j.dir, j.s.home, *j.s.home.rglob("*")):
        os.chown(p, PLAIN.pw_uid, PLAIN.pw_gid)
    roots = shutil.copy(j.flags[1], j.dir / "root.pem")
    j.s.serve(j.flags[0], roots, *j.flags[2:])
    r = j.run("sh", "-c", f"cat {j.s.home}/key; curl -sS -o /dev/null -w '%{{http_code}}' https://api.test/", root=True)
    assert r.stdout == "200" and "key" in r.stderr, r


def test_addresses(t):
    """no address but the loopback's: not the server's own port, not the internet, not a name of another; a datagram and DNS of others
    go nowhere; what is dialled in 198.18.0.0/15 without a name is refused"""
    j = Jails(t)
    port = j.s.port
    code = f"""
import errno, json, socket
def dial(*a):
    try: s = socket.create_connection(a, 3); s.settimeout(5); s.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n"); return s.recv(99).decode() or "closed"
    except OSError as e: return errno.errorcode.get(e.errno, "timeout")
def udp(*a):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)
    try: s.sendto(b"\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\5other\\4test\\0\\0\\1\\0\\1", a); return s.recv(512)[3] & 15
    except OSError as e: return errno.errorcode.get(e.errno, "timeout")
print(json.dumps([dial("127.0.0.1", {port}), dial("1.1.1.1", 443), dial("169.254.169.254", 80), dial("::ffff:1.1.1.1", 443), udp("8.8.8.8", 53), udp("127.0.0.1", 53), dial("198.19.200.7", 80)]))
"""
    for root in both(j):
        got = json.loads(j.python(code, root=root))
        assert got[0] == "ECONNREFUSED" and set(got[1:5]) <= {"ENETUNREACH", "EHOSTUNREACH"} and got[5] == 3, got
        assert not got[6].startswith("HTTP/1.1 200"), got


def test_setuid(t):
    """a setuid program is nobody else in the jail"""
    if not ROOT:
        t.skip("a setuid program needs root to make it")
    j = Jails(t)
    program = j.dir / "id"
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o4755)
    for root in both(j):
        r = j.run(program, "-u", root=root)
        assert r.stdout.strip() == str(PLAIN.pw_uid), r


def test_inherited(t):
    """sockets, folders and devices that this process was started with do not come along; files and pipes do; as standard input a
    socket of the network is refused, a connected pair is not"""
    j = Jails(t)
    r, w = os.pipe()
    file, folder = os.open(j.binary, os.O_RDONLY), os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    tcp, udp, (a, b) = socket.socket(), socket.socket(type=socket.SOCK_DGRAM), socket.socketpair()
    master, terminal = os.openpty()           # to write to the one is to type at the other
    fds = [r, w, file, terminal, folder, tcp.fileno(), udp.fileno(), a.fileno(), master]
    code = "import json, os, sys\nout = []\nfor fd in map(int, sys.argv[1:]):\n try: os.fstat(fd); out.append(True)\n except OSError: out.append(False)\nprint(json.dumps(out))"
    try:
        got = json.loads(j.python(code, *fds, pass_fds=fds))
        assert got == [True] * 4 + [False] * 5, got
        got = j.run("true", stdin=master)
        assert got.returncode == 1 and "the other side of a terminal" in got.stderr, got
        for bad in (tcp, udp):
            got = j.run("true", stdin=bad)
            assert got.returncode == 1 and "descriptor 0 is a socket" in got.stderr, got
        b.sendall(b"through\n")
        b.shutdown(socket.SHUT_WR)
        assert j.run("cat", stdin=a).stdout == "through\n"
    finally:
        for fd in (r, w, file, folder, master, terminal):
            os.close(fd)
        for s in (tcp, udp, a, b):
            s.close()


def test_environment(t):
    """known secrets of the parent's are taken out and named, whatever holds them; the rest stays; root's command has its user's home"""
    j = Jails(t)
    env = {"GH_TOKEN": "ghp_0123456789abcdef", "OPENAI_API_KEY": "something", "MY_PASSWORD": "hunter2", "SALLYPORT_TOKEN": "sp_agt_x", "DB": "postgres://u:pw123@db/x",
           "PLAIN": "stays", "API_TOKEN": "parent's", "EMPTY": "", "DESKTOP_SESSION": "gnome", "LINES2": "a\nb=c"}
    r = j.run("env", "-0", env=env)
    got = dict(v.split("=", 1) for v in r.stdout.split("\0") if v)
    named = re.search("taken out of the command's environment: (.*)", r.stderr)[1].split(", ")
    assert named == ["DB", "GH_TOKEN", "MY_PASSWORD", "OPENAI_API_KEY", "SALLYPORT_TOKEN"], r.stderr
    assert not set(named) & set(got) and got["PLAIN"] == "stays" and got["EMPTY"] == "" and got["DESKTOP_SESSION"] == "gnome" and got["LINES2"] == "a\nb=c", got
    assert got["API_TOKEN"] != "parent's" and not any(v in r.stderr for v in ("ghp_", "hunter2", "pw123"))
    assert got["SSL_CERT_FILE"] == "/run/sallyport/bundle.pem" and got["NODE_EXTRA_CA_CERTS"] == "/run/sallyport/ca.pem"
    if ROOT:
        got = dict(v.split("=", 1) for v in j.run("env", "-0", root=True).stdout.split("\0") if v)
        assert got["HOME"] == PLAIN.pw_dir and got["USER"] == PLAIN.pw_name, got


def test_root_needs_a_user(t):
    """root must say whose command it is, and not root's; nobody else may say it; an agent of another user is refused by name"""
    if not ROOT:
        t.skip("run by root alone")
    j = Jails(t)
    j.s.agent("b")
    for options, why in (([], "--user"), (["--user", "root"], "another user"), (["--user", "0"], "another user"), (["--user", "no-such-user"], "no user")):
        r = subprocess.run([j.binary, "run", "--agent", "a", *options, "--", "true"], env=j.env, capture_output=True, text=True)
        assert r.returncode == 2 and why in r.stderr, r
    r = subprocess.run([*AS_PLAIN, j.binary, "run", "--agent", "b", "--", "true"], env=j.env, cwd="/", capture_output=True, text=True)
    assert r.returncode == 1 and "agent a's" in r.stderr, r
    r = subprocess.run([*AS_PLAIN, j.binary, "run", "--agent", "a", "--user", "root", "--", "true"], env=j.env, cwd="/", capture_output=True, text=True)
    assert r.returncode == 2, r


def test_exit_and_signals(t):
    """exit status, death by a signal, a program that is not there or none; signals are the command's; the umask, limits and signals that
    are ignored are as they would be; nothing of the jail is left"""
    j = Jails(t)
    for root in both(j):
        assert j.run("sh", "-c", "exit 37", root=root).returncode == 37
        for sig in (signal.SIGTERM, signal.SIGKILL, signal.SIGABRT, signal.SIGUSR1):
            assert j.run("sh", "-c", f"kill -{int(sig)} $$", root=root).returncode == -sig
        assert j.run("no-such-program", root=root).returncode == 127
        assert j.run("", root=root).returncode == 127
        assert j.run("/nowhere/x", root=root).returncode == 127
        assert j.run("/etc/passwd", root=root).returncode == 126
    p = j.popen(PYTHON, "-uc", "import signal, sys, time\nfor n in (1, 2, 10, 15): signal.signal(n, lambda s, f: print(s))\nprint('up')\ntime.sleep(1)\n"
                "while True:\n s = signal.sigtimedwait([signal.SIGUSR2], 9)\n sys.exit(9)", stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert p.stdout.readline() == "up\n"
    for sig in (1, 2, 10, 15):
        os.kill(p.pid, sig)
        assert p.stdout.readline() == f"{sig}\n"
    children = pathlib.Path(f"/proc/{p.pid}/task/{p.pid}/children").read_text().split() if os.path.exists(f"/proc/{p.pid}/task/{p.pid}/children") else []
    os.kill(p.pid, signal.SIGKILL)
    p.wait()
    wait(lambda: not any(os.path.exists(f"/proc/{c}") and "\nState:\tZ" not in pathlib.Path(f"/proc/{c}/status").read_text() for c in children), 5, "the end of the jail")
    code = "umask; ulimit -Sn; ulimit -Sc; ulimit -Hc; grep SigIgn /proc/self/status"
    direct = subprocess.run(["sh", "-c", "umask 027; trap '' USR1; " + code], capture_output=True, text=True, cwd="/").stdout
    mine = subprocess.run(["sh", "-c", "umask 027; trap '' USR1; exec \"$@\"", "sh", *j.argv("sh", "-c", code)], env=j.env, capture_output=True, text=True, cwd="/").stdout
    assert mine == direct, (mine, direct)
    left = j.popen("sh", "-c", "sleep 300 & echo $!", stdout=subprocess.PIPE)
    left.communicate(timeout=20 * sallyport.SLOW)     # the pipe ends although the sleep holds it: it ends with the command


def test_it_ends_with_the_command(t):
    """the listeners are the server's as long as the command runs; a server that comes back gets them again; more than one command
    at a time, each with a network of its own"""
    j = Jails(t)
    def handovers():
        return sum(r.get("path", "").endswith("/listeners") and r.get("status") == 200 for r in j.s.records())

    before = handovers()
    p = j.popen("sh", "-c", "read line; curl -sS https://api.test/again; echo rc $?; read line", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait(lambda: handovers() > before, 10, "the handover")
    j.s.stop()
    before = handovers()
    j.s.serve(*j.flags)
    wait(lambda: handovers() > before, 20, "the second handover")
    p.stdin.write("go\n")
    p.stdin.flush()
    line = p.stdout.readline()
    while line and not line.startswith("rc"):
        line = p.stdout.readline() if "rc 0" not in line else "rc 0\n"
    assert line == "rc 0\n", line
    p.communicate("end\n", timeout=20 * sallyport.SLOW)
    assert p.returncode == 0 and j.up.requests[-1].get("authorization") == f"Bearer {CANARY}"


def test_many(t):
    """200 jails at once, each with a request of its own, which is the agent's"""
    if sallyport.SLOW > 1:
        t.skip("on the plain build alone: a sanitizer's memory 200 times is a machine's")
    j = Jails(t)
    running = [j.popen("sh", "-c", "read line; curl -sS -o /dev/null -w '%{http_code}' https://other.test/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(200)]
    wait(lambda: sum(r.get("path", "").endswith("/listeners") and r.get("status") == 200 for r in j.s.records()) >= 200, 120, "200 handovers")
    codes = [p.communicate("go\n", timeout=120)[0] for p in running]
    assert codes == ["403"] * 200, [c for c in codes if c != "403"][:5]        # who is nobody's would not be told so
    # the log folds refusals that are alike, and tells the last of them later
    refused = [r for r in j.s.records() if r.get("host") == "other.test"]
    assert all(r.get("agent") == "a" and r["error"] == "host_not_allowed" for r in refused), refused[:3]
    assert sum(r.get("count", 1) for r in refused) > 150, refused[-3:]


def programs(t):
    """(a jail's server, arrived(argv): the program came through with the credential, though no proxy variable was set)"""
    j = Jails(t)
    none = ["env", *sum((["-u", v] for v in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NODE_USE_ENV_PROXY")), [])]
    n = len(j.up.requests)

    def arrived(*argv, **how):
        nonlocal n
        r = j.run(*none, *argv, timeout=120, **how)
        assert len(j.up.requests) > n and j.up.requests[-1].get("authorization") == f"Bearer {CANARY}", (argv, r)
        n = len(j.up.requests)
        return r

    return j, arrived


def test_programs(t):
    """git, python3 and node without proxy variables arrive, with the CA in place"""
    t.need("git")
    j, arrived = programs(t)
    arrived(PYTHON, "-c", "import urllib.request; urllib.request.urlopen('https://api.test/python')")
    arrived("git", "ls-remote", "https://api.test/x.git", env={"GIT_TERMINAL_PROMPT": "0"})
    found = shutil.which("node") or (node() or [None])[0]
    if found:
        arrived(os.path.realpath(found), "-e", "fetch('https://api.test/node').then(r => process.exit(r.ok ? 0 : 1))")


def test_jvm(t):
    """a JVM, which reads neither proxy variables nor the system's roots, arrives"""
    from doors_test import JAVA
    t.need("java", "javac")
    if sallyport.SLOW > 1:
        t.skip("on the plain build alone: what is tried is the client")
    j, arrived = programs(t)
    (j.dir / "Ask.java").write_text(JAVA)
    assert arrived("java", j.dir / "Ask.java").stdout.strip() == "200"


def test_go(t):
    """a Go program without proxy variables arrives"""
    t.need("go")
    if sallyport.SLOW > 1:
        t.skip("on the plain build alone: what is tried is the client")
    j, arrived = programs(t)
    (j.dir / "ask.go").write_text('package main\nimport ("net/http"; "fmt")\nfunc main() { r, e := http.Get("https://api.test/go"); fmt.Println(r.StatusCode, e) }\n')
    subprocess.run(["go", "build", "-o", j.dir / "ask", j.dir / "ask.go"], check=True, cwd=j.dir, env={**os.environ, "GOFLAGS": "-mod=mod", "GO111MODULE": "off"})
    (j.dir / "ask").chmod(0o755)
    assert arrived(j.dir / "ask").stdout.startswith("200")


BEDROCK = """
const { BedrockRuntimeClient, ConverseCommand } = require(process.argv[2] + "/@aws-sdk/client-bedrock-runtime");
const client = new BedrockRuntimeClient({ region: "us-east-1", credentials: { accessKeyId: "AKIDEXAMPLE", secretAccessKey: "x" }, maxAttempts: 1,
  endpoint: process.argv[3] });
const said = (status, more) => console.log(client.config.requestHandler.constructor.name, status, more);
client.send(new ConverseCommand({ modelId: "m", messages: [{ role: "user", content: [{ text: "hi" }] }] }))
  .then(r => said(r.$metadata.httpStatusCode), e => said(e.$metadata?.httpStatusCode, e.message));
"""


def test_bedrock(t):
    """the AWS SDK for JavaScript's Bedrock client, whose default handler reads no proxy variable and speaks HTTP/2 alone, arrives as the
    agent, at AWS's own name and with a credential at another, and gets its answer"""
    found, modules = node(), sallyport.BUILD / "npm/node_modules"
    if not found or not (modules / "@aws-sdk/client-bedrock-runtime").exists():
        t.skip("the SDK or node is not there: ./build.sh test installs them")
    j = Jails(t)
    host = "bedrock-runtime.us-east-1.amazonaws.com"
    j.s.domain({"host": host, "methods": ["GET", "POST"]})
    (j.dir / "b.cjs").write_text(BEDROCK)
    argv = os.path.realpath(found[0]), j.dir / "b.cjs", modules
    r = j.run(*argv, timeout=60)
    assert r.stdout.startswith("NodeHttp2Handler "), r
    record = j.s.wait_record({"agent": "a", "host": host, "port": 443})
    assert record["client"].startswith("198.") and record["path"] == "/model/m/converse", (record, r)
    r = j.run(*argv, "https://api.test", timeout=60)
    assert r.stdout.startswith("NodeHttp2Handler 200 "), r
    assert j.up.requests[-1].get("authorization") == f"Bearer {CANARY}", j.up.requests[-1]


FORBID = r"""
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
nr, code = (int(n) for n in sys.argv[1].split(":"))
def ins(code, k, yes=0, no=0): return struct.pack("HBBI", code, yes, no, k)
prog = ins(0x20, 0) + ins(0x15, nr, 0, 1) + ins(0x06, 0x50000 | code) + ins(0x06, 0x7fff0000)
buf = ctypes.create_string_buffer(prog)
class F(ctypes.Structure): _fields_ = [("len", ctypes.c_ushort), ("p", ctypes.c_void_p)]
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(F(4, ctypes.addressof(buf))), 0, 0) == 0
os.execvp(sys.argv[2], sys.argv[2:])
"""


def test_where_no_jail_can_be_made(t):
    """without user namespaces, or without capabilities in them, it says so and runs nothing; with --allow-net the command runs with the
    environment alone, which it says; doctor knows"""
    j = Jails(t)
    nr = numbers(t)
    for call, code, says in (("unshare", 1, "lets nobody make user namespaces"), ("mount", 1, "no capabilities"),
                             ("getsockopt", 92, "too old for a jail (Linux 5.14")):        # ENOPROTOOPT: no SO_NETNS_COOKIE
        argv = [PYTHON, "-c", FORBID, f"{nr[call]}:{code}"]
        r = subprocess.run([*AS_PLAIN, *argv, *j.argv("sh", "-c", "echo ran")[len(AS_PLAIN):]], env=j.env, cwd="/", capture_output=True, text=True)
        assert r.returncode == 1 and says in r.stderr and "--allow-net" in r.stderr and r.stdout == "", r
        env = {**j.s.env, "GH_TOKEN": "ghp_0123456789abcdef"}
        r = subprocess.run([*argv, j.binary, "run", "--agent", "a", *(["--user", PLAIN.pw_name] if ROOT else []), "--allow-net", "--", "sh", "-c",
                            "echo $HTTPS_PROXY $GH_TOKEN; grep -q 'SigBlk:.0000000000000000' /proc/self/status && exit 5"], env=env, cwd="/", capture_output=True, text=True)
        assert r.returncode == 5 and re.match(r"http://a:sp_agt_[\w-]+@127\.0\.0\.1:\d+\s*$", r.stdout) and says in r.stderr and "GH_TOKEN" in r.stderr, r
        if call != "mount":
            r = subprocess.run([*argv, j.s.binary, "doctor"], env=j.s.env, capture_output=True, text=True)
            assert re.search(r"warn +jails", r.stdout), r.stdout
    assert re.search(r"ok +jails", j.s.cli("doctor", check=False).stdout)


# Signals to the group that the shell and others are in, by other ways than kill(2); then what stays as it is.
GROUP = r"""
import ctypes, errno, fcntl, json, os, struct, sys
libc, NR = ctypes.CDLL(None, use_errno=True), json.loads(sys.argv[1])
tty = os.open("/dev/tty", os.O_RDWR)
def call(name, *a):
    r = libc.syscall(ctypes.c_long(NR[name]), *[ctypes.c_ulong(x) for x in a])
    return "done" if r >= 0 else errno.errorcode[ctypes.get_errno()]
def control(command, value):
    try: fcntl.fcntl(tty, command, value)
    except OSError as e: return errno.errorcode[e.errno]
    return "done"
def ioctl(request):
    try: fcntl.ioctl(tty, request, struct.pack("i", 1))
    except OSError as e: return errno.errorcode[e.errno]
    return "done"
me = libc.syscall(ctypes.c_long(NR["pidfd_open"]), ctypes.c_long(os.getpid()), ctypes.c_ulong(0))
print([call("pidfd_send_signal", me, 9, 0, 4), call("pidfd_send_signal", me, 15, 0, 4 | 1 << 32), control(fcntl.F_SETFL, fcntl.fcntl(tty, fcntl.F_GETFL) | 0x2000),
  ioctl(0x5452), control(fcntl.F_SETFL, fcntl.fcntl(tty, fcntl.F_GETFL) | os.O_NONBLOCK), call("pidfd_send_signal", me, 0, 0, 0)])
"""


class Shell:
    """An interactive bash on a terminal of its own, as the plain user."""

    def __init__(self, j):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            for sig in (signal.SIGINT, signal.SIGQUIT):      # whoever started the tests in the background ignores them
                signal.signal(sig, signal.SIG_DFL)
            os.chdir("/")
            os.execvpe((AS_PLAIN or ["env"])[0], [*(AS_PLAIN or ["env"]), "bash", "--norc", "--noprofile", "-i"], {**j.env, "PS1": "P> ", "TERM": "dumb"})
        self.text = ""
        self.till("P> ")
        self.do("run() { " + " ".join(j.argv()[len(AS_PLAIN):]) + " \"$@\"; }")

    def read(self, seconds):
        if select.select([self.fd], [], [], seconds)[0]:
            self.text += os.read(self.fd, 65536).decode("utf-8", "replace")

    def till(self, what, seconds=20):
        end = time.monotonic() + seconds * sallyport.SLOW
        while what not in self.text:
            assert time.monotonic() < end, (what, self.text)
            self.read(0.2)
        at = self.text.index(what) + len(what)
        said, self.text = self.text[:at], self.text[at:]
        return said

    def send(self, text):
        os.write(self.fd, text.encode())

    def echoed(self, word):
        """Until what runs in the foreground, cat, has answered with the word: as the terminal's own echo does first."""
        self.send(word + "\n")
        self.till(f"{word}\r\n{word}\r\n")

    def do(self, line):
        """The line's output, up to the next prompt."""
        self.send(line + "\n")
        return self.till("\nP> ")

    def close(self):
        os.close(self.fd)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def test_terminal(t):
    """on a terminal: Ctrl-C, Ctrl-Z and fg, a job in the background, a shell with jobs of its own in the jail, a pipeline, a terminal
    of its own; the group that the shell and others are in cannot be killed from inside"""
    t.need("bash")
    j = Jails(t)
    sh = Shell(j)
    try:
        # cat alone: a shell that is stopped between fork and exec hangs, in a jail or not (vfork(2))
        sh.send("run sh -c 'echo up; exec cat'\n")
        sh.till("\nup")
        sh.echoed("one")
        sh.send("\x03")
        sh.till("P> ")
        assert "rc=130" in sh.do("echo rc=$?")
        sh.send("run sh -c 'echo up; exec cat'\n")
        sh.till("\nup")
        sh.echoed("two")
        sh.send("\x1a")
        sh.till("Stopped")
        sh.till("P> ")
        sh.send("fg\n")
        sh.till('"$@"')
        sh.echoed("three")
        sh.send("\x04")
        sh.till("P> ")
        assert "rc=0" in sh.do("echo rc=$?")
        sh.send("run bash --norc --noprofile -i\n")
        sh.till("P> ")
        assert "/dev/console" in sh.do("tty")
        sh.send("sh -c 'echo up; exec cat'\n")
        sh.till("\nup")
        sh.echoed("four")
        sh.send("\x1a")
        sh.till("Stopped")
        sh.till("P> ")
        sh.send("fg\n")
        sh.till("exec cat'")
        sh.echoed("five")
        sh.send("\x03")
        sh.till("P> ")
        sh.send("exit 6\n")
        sh.till("exit")
        sh.till("P> ")
        assert "rc=6" in sh.do("echo rc=$?")
        assert "in the jail" in sh.do("echo in the jail | run cat | cat"), "a pipeline"
        out = sh.do("run kill -9 0; echo rc=$?")
        assert "rc=1" in out and "not permitted" in out, out
        (j.dir / "group.py").write_text(GROUP)
        out = sh.do(f"run {PYTHON} {j.dir}/group.py '{json.dumps(numbers(t))}'; echo rc=$?")
        assert "['EPERM', 'EPERM', 'EPERM', 'EPERM', 'done', 'done']" in out and "rc=0" in out, out
        sh.do("run sleep 60 & sleep 0.5")
        sh.send("kill %1; wait %1; echo rc=$?; read line; echo read=$line\n")
        sh.till("rc=143")
        sh.send("mine\n")
        sh.till("read=mine")                      # a job of the background that ends leaves the terminal alone
        sh.till("P> ")
        sh.send("run script -qc tty /dev/null\n")
        sh.till("\n/dev/pts/0")                  # terminals of its own
        sh.till("P> ")
        sh.send("echo still $((40 + 2))\n")
        sh.till("still 42")
    finally:
        sh.close()
