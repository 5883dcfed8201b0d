"""The request log: floods, full disks, rotation from outside, and processes that die."""
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time

import sallyport
from real import wait

API = {"name": "api", "type": "bearer", "host": "api.test", "secrets": {"token": "canary-log-1"}}


def writer(s):
    """The process that writes the log."""
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "comm").read_text() == "sallyport-log\n" and os.getpgid(int(entry.name)) == s.group:
                return int(entry.name)
        except OSError:
            pass
    return None


def file_of(s):
    return s.home / "log" / "requests.jsonl"


def lines(path):
    """the records of requests in a file: those of kind `change` came of the commands that set things up"""
    return [x for x in path.read_bytes().splitlines(True) if b',"kind":"change",' not in x] if path.exists() else []


def again(s, up, *flags):
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}", *flags)


def refused(s, n, name="a", host="denied.test", target="/"):
    """n requests on one connection, each refused."""
    sock = socket.create_connection(("127.0.0.1", s.port), 30)
    sock.settimeout(60 * sallyport.SLOW)
    head = f"GET http://{host}{target} HTTP/1.1\r\nHost: {host}\r\n{s.auth(name=name)}\r\n".encode()
    sent = threading.Thread(target=lambda: sock.sendall(head * n))
    sent.start()
    answers = b""
    while answers.count(b"HTTP/1.1 403") < n:
        part = sock.recv(1 << 16)
        assert part, f"closed after {answers.count(b'HTTP/1.1 403')} of {n}"
        answers += part
    sent.join()
    sock.close()


def total(records, **want):
    return sum(int(r.get("count", 1)) for r in records if all(r.get(k) == v for k, v in want.items()))


def test_flood(t):
    """an agent's thousands of refusals are a few records, none uncounted, beside another's"""
    s, up = t.proxy(workers=2, credentials=[API], serve=False)
    s.agent("b")
    again(s, up, "--log-size", "16m")         # a rotation would take old counts along
    refused(s, 1, "b", "mine.test")
    threads = [threading.Thread(target=refused, args=(s, 3000)) for _ in range(4)]
    began = time.monotonic()
    for x in threads:
        x.start()
    for x in threads:
        x.join()
    seconds = time.monotonic() - began + 2
    refused(s, 1, "b", "mine.test", "/after")
    wait(lambda: total(s.records(), agent="a") == 12000, 20, f"12000, not {total(s.records(), agent='a')}")
    records = s.records()
    # twenty a second have a line each; the others are counted for a tenth of a second, which 50 ms of a worker make one of
    assert len([r for r in records if r.get("agent") == "a"]) <= 34 * seconds + 34, (len(records), seconds)
    assert total(records, agent="b") == 2
    many = [r for r in records if "count" in r]
    assert many and all(r["error"] == "host_not_allowed" and r["first"].startswith("GET denied.test:80/") and r["decision"] == "deny"
                        for r in many), many[:2]
    assert "more: GET denied.test:80/ … GET denied.test:80/" in s.cli("log", "--newest", "2000").stdout
    assert s.cli("log", "--json", "--host", "denied.test").stdout.count("\n") == len(records) - 2


def test_flood_in_a_small_log(t):
    """a flood of refusals rotates a small log, within its size, and another agent's record stays"""
    s, up = t.proxy(workers=2, credentials=[API], serve=False)
    s.agent("b")
    again(s, up, "--log-size", "64k")
    refused(s, 1, "b", "mine.test")
    for i in range(4):
        for k in range(5):
            refused(s, 30, host=f"denied{k}.test", target="/" + "p" * 1900)
        time.sleep(1.1)         # a file lives a second
    wait(lambda: (file_of(s).parent / "requests.jsonl.1").exists(), 5, "a rotation")
    s.stop()
    assert total(s.records(), agent="b") == 1
    assert sum(f.stat().st_size for f in file_of(s).parent.glob("requests*")) <= (64 << 10) + 60000


def test_allowed_flood(t):
    """rotations keep every agent's records, however many allowed requests another makes"""
    s, up = t.proxy(credentials=[API], serve=False)
    s.agent("b")
    again(s, up, "--log-size", "64k")
    refused(s, 1, "b")
    # a's own pages are allowed, need no upstream, and are not counted alone
    sock = socket.create_connection(("127.0.0.1", s.port), 30)
    sock.settimeout(60 * sallyport.SLOW)
    one = f"GET /discover HTTP/1.1\r\nHost: 127.0.0.1:{s.port}\r\n{s.auth()}\r\n".encode()
    for _ in range(6):
        got = b""
        sender = threading.Thread(target=lambda: sock.sendall(one * 100))
        sender.start()
        while got.count(b"HTTP/1.1 200") < 100:
            part = sock.recv(1 << 16)
            assert part
            got += part
        sender.join()
        time.sleep(0.6)         # a file lives a second
    wait(lambda: (file_of(s).parent / "requests.jsonl.1").exists(), 5, "a rotation")
    records = s.records()
    assert total(records, agent="b") == 1 and total(records, agent="a") > 50
    s.stop()
    assert sum(f.stat().st_size for f in file_of(s).parent.glob("requests*")) <= (64 << 10) + 60000
    assert not (file_of(s).parent / "requests.jsonl.0").exists()


def test_waits(t):
    """while the log's writer stands still nothing that carried a credential goes unrecorded: requests wait, and go on"""
    s, up = t.proxy(credentials=[API], upstream={"reply": {"body": "ok"}})
    assert s.request().status == 200
    pid = writer(s)
    os.kill(pid, signal.SIGSTOP)
    done, stop, failed = [0], threading.Event(), []

    def load():
        wire = s.tunnel()
        path = "/" + "p" * 1900
        while not stop.is_set():
            try:
                if s.request(target=path, wire=wire, timeout=25).status != 200:
                    failed.append("status")
                    return
            except Exception as e:          # noqa: BLE001
                failed.append(repr(e))
                return
            done[0] += 1
    threads = [threading.Thread(target=load) for _ in range(4)]
    for x in threads:
        x.start()
    seen = -1
    try:
        end = time.monotonic() + 120 * sallyport.SLOW
        while seen != done[0]:          # one MiB in the pipe and half of one in the queue, then nobody moves
            assert time.monotonic() < end, "nothing ever waits"
            seen = done[0]
            time.sleep(2)
        held = done[0]
        # another agent's requests go on
        s.agent("b")
        assert s.request(auth=s.auth(name="b")).status == 200
    finally:
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.3)
        stop.set()
        for x in threads:
            x.join(60)
    assert not failed, failed
    assert held > 400, held          # the agent's part of the queue, and what the pipe holds
    wait(lambda: len([r for r in s.records() if r.get("path", "").startswith("/pp")]) == done[0], 10, "every record")
    assert "ev=log_dropped" not in s.log()


def test_full_disk(t):
    """a full disk costs records, says so once, and the next ones are whole"""
    s, up = t.proxy(credentials=[API])
    for _ in range(3):
        s.request()
    wait(lambda: len(s.records()) == 3, 5, "three records")
    size = file_of(s).stat().st_size
    resource.prlimit(writer(s), resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
    for _ in range(8):
        assert s.request().status == 200
        time.sleep(0.1)
    wait(lambda: s.log().count("ev=log_dropped") == 1, 5, "a line about it")
    resource.prlimit(writer(s), resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    s.request(target="/room")
    s.wait_record({"path": "/room"})
    assert s.log().count("ev=log_dropped") == 1 and s.log().count("ev=log_resumed dropped=8") == 1, s.log()
    with socket.socket(socket.AF_UNIX) as c, socket.create_connection(("127.0.0.1", s.port)) as d:
        c.connect(str(s.home / "control"))
        c.sendall(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
        d.sendall(b"GET /healthz HTTP/1.0\r\nHost: 127.0.0.1:%d\r\n\r\n" % s.port)
        numbers, health = (b"".join(iter(lambda x=x: x.recv(1 << 16), b"")) for x in (c, d))
    assert b"\nsallyport_log_drops_total 8\n" in numbers and health.startswith(b"HTTP/1.1 200 "), "each is counted; requests are served all the same"
    assert json.loads(lines(file_of(s))[-1])["path"] == "/room"


def test_torn(t):
    """a torn line is passed over, and the next record is whole"""
    s, up = t.proxy(credentials=[API])
    s.request(target="/one")
    s.wait_record({"path": "/one"})
    s.stop()
    with open(file_of(s), "ab") as f:
        f.write(b'{"time":1795902368349,"request":"1a4f","agent":"a","path":"/to')
    assert [r["path"] for r in s.records()] == ["/one"]
    again(s, up)
    s.request(target="/two")
    s.wait_record({"path": "/two"})
    assert [r["path"] for r in s.records()] == ["/one", "/two"]


def test_lines_of_others(t):
    """whatever another program left in the file, log shows the records, and doctor ends well"""
    s, up = t.proxy(credentials=[API])
    s.request(target="/one")
    s.wait_record({"path": "/one"})
    now = json.loads(lines(file_of(s))[0])["time"]
    every = ["time", "agent", "credential", "decision", "reason", "method", "host", "port", "path", "status", "up", "down", "ms", "error", "note",
             "stripped", "count", "first", "last"]
    with open(file_of(s), "ab") as f:
        for value in ["null", "true", "{}", "[1]", "1.5", "-1", "1e400", "1e30", "99999999999999999999", '"x"', r'"\u001b[2J"']:
            for deny in ['"deny"', value]:
                f.write(('{"time":%d,"decision":%s,' % (now, deny)
                         + ",".join(f'"{n}":{value}' for n in every[1:] if n != "decision") + "}\n").encode())
            f.write(('{"time":%d,"count":%s,"error":"client_tls","decision":"deny"}\n' % (now, value)).encode())
        f.write(b'{"time":9223372036854775807,"agent":"a"}\n{"time":1,"time":2}\n{"time":%d.5}\n\0\0\0\n' % now)
        f.write(b'{"time":%d,"agent":"%s"}\n{"time":%d,"a":%s%s}\n\xff\n' % (now, b"A" * 200000, now, b"[" * 5000, b"]" * 5000))
    s.request(target="/two")
    s.wait_record({"path": "/two"})
    for args in [], ["--newest", "7"], ["--json"], ["--denied"], ["--host", "x"], ["--agent", "x"]:
        r = s.cli("log", *args)
        assert "\x1b" not in r.stdout and not r.stderr.strip(), (args, r.stderr)
    assert "/two" in s.cli("log").stdout and "/one" in s.cli("log", "--json").stdout
    assert "fault in sallyport" not in s.cli("doctor", check=False).stderr


def test_reasons_once(t):
    """a line of log says a cause once, and no port where there is none"""
    s, up = t.proxy(credentials=[API])
    with socket.create_connection(("127.0.0.1", s.port), 10) as sock:
        sock.sendall(b"\x04\x01\x01\xbb\x7f\x00\x00\x01\x00")  # SOCKS4
        while sock.recv(100):
            pass
    s.request(host="denied.test")
    s.wait_record({"error": "not_http"})
    shown = s.cli("log").stdout
    assert shown.count("not_http") == 1 and ":0 " not in shown and shown.count("host_not_allowed") == 1, shown


def test_hostile_paths(t):
    """one request is one line of ASCII-safe JSON, whatever its path"""
    s, up = t.proxy(credentials=[API])
    wire = s.tunnel()
    for path in (b"/\xff\xfe\xc3", b'/","agent":"b","x":"', b"/\xc2\x9b31m", b"/" + b"\xe2\x82\xac" * 2000, b"/\xf0\x9f\x92\xa9" * 500):
        wire.send(b"GET " + path + b" HTTP/1.1\r\nHost: api.test\r\n\r\n")
        got = b""
        while b"\r\n\r\n" not in got:
            part = wire.recv(10)
            if not part:
                wire = s.tunnel()
                break
            got += part
    time.sleep(0.3)
    before = total(s.records(), error="bad_request")
    for n in (100, 4000, 40000):
        s.tunnel().send(b"M" * n + b" / HTTP/1.1\r\nHost: api.test\r\n\r\n")
    wait(lambda: total(s.records(), error="bad_request") == before + 3, 5, "records of long methods")
    s.request(target="/last", wire=None)
    s.wait_record({"path": "/last"})
    raw = lines(file_of(s))
    for line in raw:
        r = json.loads(line)
        assert r.get("agent", "a") == "a" and len(line) < 4096, line
        assert not any(c < 0x20 or c == 0x7f for c in line[:-1]), line
    assert len(raw) >= 2
    assert "\x9b" not in s.cli("log").stdout and "\x1b" not in s.cli("log").stdout


def test_moved_away(t):
    """logrotate: a moved file is left with the next record or SIGHUP, copytruncate works, and nobody sees anything twice"""
    s, up = t.proxy(workers=2, credentials=[API])
    out = open(s.dir / "follow", "wb")
    p = subprocess.Popen([s.binary, "log", "--follow", "--json", "--kind", "request"], env=s.env, stdout=out)
    t.processes.append(p)
    sent = []

    def send(n=2):
        for _ in range(n):
            path = f"/r{len(sent)}"
            sent.append(path)
            assert s.request(target=path).status == 200

    def seen():
        return [json.loads(x)["path"] for x in (s.dir / "follow").read_bytes().splitlines(True) if x.endswith(b"\n")]
    time.sleep(0.5)
    send()
    wait(lambda: seen() == sent, 8, "the first records")
    file_of(s).rename(s.dir / "moved")
    send()
    wait(lambda: seen() == sent, 8, f"what came behind a move: {seen()}")
    assert len(lines(s.dir / "moved")) == 2 and len(lines(file_of(s))) == 2
    file_of(s).rename(s.dir / "moved2")
    os.kill(s.process.pid, signal.SIGHUP)
    wait(lambda: file_of(s).exists(), 5, "the file after SIGHUP")
    assert stat.S_IMODE(file_of(s).stat().st_mode) == 0o600
    send()
    wait(lambda: seen() == sent, 8, "what came behind SIGHUP")
    shutil.copy(file_of(s), s.dir / "copied")
    os.truncate(file_of(s), 0)
    time.sleep(0.5)
    send()
    wait(lambda: seen() == sent, 8, "what came behind copytruncate")
    assert len(lines(file_of(s))) == 2 and b"\0" not in file_of(s).read_bytes()
    time.sleep(0.3)
    assert seen() == sent and s.alive()


def test_kills(t):
    """kill -9 of the writer, of workers and of the master: the log goes on, and what was written stays whole"""
    s, up = t.proxy(workers=2, credentials=[API])
    s.may_die = "yes"
    s.request(target="/one")
    s.wait_record({"path": "/one"})
    pid = writer(s)
    assert pid not in s.worker_pids()
    os.kill(pid, signal.SIGKILL)
    s.request(target="/two")
    wait(lambda: writer(s) not in (None, pid), 5, "another writer")
    s.wait_record({"path": "/two"})
    for w in s.worker_pids():
        os.kill(w, signal.SIGKILL)
    wait(lambda: len(s.worker_pids()) == 2, 10, "workers")
    s.request(target="/three")
    s.wait_record({"path": "/three"})
    s.request(target="/four")
    os.kill(s.process.pid, signal.SIGKILL)     # at once: what waits in a worker is written as it drains
    s.process.wait()
    wait(lambda: writer(s) is None, 35, "the writer's end")
    s.process = None
    again(s, up)
    s.request(target="/five")
    s.wait_record({"path": "/five"})
    assert [r["path"] for r in s.records()] == ["/one", "/two", "/three", "/four", "/five"]
    assert all(json.loads(x) for x in lines(file_of(s)))


def test_drain(t):
    """what was asked just before the end is in the log"""
    s, up = t.proxy(workers=2, credentials=[API])
    for i in range(20):
        s.request(target=f"/r{i}")
    s.stop()
    assert sorted(r["path"] for r in s.records()) == sorted(f"/r{i}" for i in range(20))


def test_memory(t):
    """log memory: nothing is written to the data directory"""
    if not os.path.isdir("/dev/shm") or not os.access("/dev/shm", os.W_OK):
        t.skip("there is no /dev/shm here")
    s, up = t.proxy(credentials=[API], serve=False)
    s.cli("set", "log", "memory")
    before = file_of(s).read_bytes()        # of the commands before
    folder = pathlib.Path(f"/dev/shm/sallyport-{os.getuid()}-{s.home.stat().st_ino:x}")
    try:
        again(s, up)
        s.request(target="/one")
        s.wait_record({"path": "/one"})
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "requests.jsonl").stat().st_mode) == 0o600
        assert file_of(s).read_bytes() == before
        s.stop()
        folder.chmod(0o755)
        r = s.cli("serve", "--listen", "127.0.0.1:0", check=False)
        assert r.returncode == 1 and "not ours alone" in r.stderr, r.stderr
    finally:
        s.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_places(t):
    """log-file and log-group: what is no place for a log is refused, and who may read it can"""
    s, up = t.proxy(credentials=[API], serve=False)
    place = s.dir / "logs"
    place.mkdir(0o700)
    other = place / "other.jsonl"
    for path, why in ((s.dir / "absent" / "x", "no such folder"), ("/tmp/sallyport-log-test.jsonl", "everybody may put files"),
                      ("relative", "named from the root"), (place, "not a plain file")):
        r = s.cli("set", "log-file", path, check=False)
        assert r.returncode != 0 and why in r.stderr, (path, r.stderr)
    (place / "link").symlink_to(other)
    r = s.cli("set", "log-file", place / "link", check=False)
    assert r.returncode == 1 and "not a plain file" in r.stderr and not other.exists(), r.stderr
    r = s.cli("set", "log-group", "no-such-group-here", check=False)
    assert r.returncode == 1 and "no group" in r.stderr, r.stderr
    r = s.cli("set", "log-records", "1000", check=False)
    assert r.returncode == 2 and "log-size" in r.stderr, r.stderr
    s.cli("set", "log-file", other)
    s.cli("set", "log-group", os.getgid())
    again(s, up)
    s.request(target="/there")
    s.wait_record({"path": "/there"})
    st = other.stat()
    assert stat.S_IMODE(st.st_mode) == 0o640 and st.st_gid == os.getgid() and len(lines(other)) == 1
    assert not lines(file_of(s))
    # a flag of serve counts for commands too
    s.stop()
    again(s, up, "--log-file", place / "flag.jsonl")
    s.request(target="/flag")
    assert s.wait_record({"path": "/flag"}) and len(s.records()) == 1
    assert "cannot enter" in s.cli("doctor", check=False).stdout      # the folder is our own alone


def test_older_store(t):
    """what an earlier version kept is left alone, and doctor says where it is"""
    s, up = t.proxy(credentials=[API])
    old = s.home / "log" / "data.mdb"
    old.write_bytes(b"x" * 4096)
    old.chmod(0o600)
    s.request(target="/new")
    s.wait_record({"path": "/new"})
    assert f"{old} holds the records of an earlier version" in s.cli("doctor", check=False).stdout
    assert old.read_bytes() == b"x" * 4096


def paths(s):
    return [r.get("path") for r in s.records()]


def test_places_for_a_log(t):
    """log-file is no file of the data directory, and none that holds something else"""
    s = t.bare()
    s.init()
    other, folder = s.dir / "notes.txt", s.dir / "logs"
    other.write_text("dear diary\n")
    folder.mkdir(0o750)
    (folder / "json").write_text('{"a":1}\n')
    (folder / "link").symlink_to(s.home / "log")
    (s.home / "serve.lock").touch(0o600)
    before = {f: f.read_bytes() for f in (s.home / "key", s.home / "serve.lock", s.home / "store" / "writer.lock")}
    for place in [other, folder / "json", s.home / "key", s.home / "serve.lock", s.home / "new", s.home / "store" / "writer.lock",
                  s.home / "store" / "new", folder / "link" / ".." / "new"]:
        r = s.cli("set", "log-file", place, check=False)
        assert r.returncode == 1 and ("data directory's own" in r.stderr or "something else than a request log" in r.stderr), (place, r)
    assert other.read_text() == "dear diary\n"
    assert {f: f.read_bytes() for f in before} == before and not (s.home / "store" / "new").exists()
    (folder / "old").write_text('{"time":1,"agent":"a"}\n')
    (folder / "torn").write_text('{"ti\n{"time":1,"agent":"a"}\n')
    for place in [folder / "old", folder / "torn", folder / "new", s.home / "log" / "mine.jsonl"]:
        s.cli("set", "log-file", place)
    r = s.cli("set", "log-file", "", check=False)
    assert r.returncode == 2 and "--default" in r.stderr, r
    s.cli("set", "log-file", "--default")


def test_writer_killed_where_its_folder_is_new(t):
    """the log's writer is replaced, once for each end, when its folder was made anew too"""
    s, up = t.proxy(credentials=[API])

    def killed():
        old = writer(s)
        os.kill(old, signal.SIGKILL)
        wait(lambda: writer(s) not in (None, old), 5, "another writer")
    s.request(target="/1")
    s.wait_record({"path": "/1"})
    killed()
    s.request(target="/2")
    s.wait_record({"path": "/2"})
    assert paths(s) == ["/1", "/2"]
    shutil.rmtree(s.home / "log")
    (s.home / "log").mkdir(0o700)
    s.request(target="/3")
    s.wait_record({"path": "/3"})
    killed()
    s.request(target="/4")
    s.wait_record({"path": "/4"})
    time.sleep(2.5)
    assert s.log().count("ev=log_died") == 2, s.log()
    assert paths(s) == ["/3", "/4"]


def test_small_log(t):
    """what one agent sends does not make the log larger than one and a half of its size"""
    s, up = t.proxy(credentials=[API], serve=False)
    s.cli("set", "log-size", "64k")
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    w, most = s.tunnel(), 0

    def size(f):
        try:
            return f.stat().st_size
        except FileNotFoundError:        # FILE.0: a rotation is over
            return 0
    for i in range(150):
        s.request(target=f"/{i}?" + "q" * 10, wire=w)
        s.request(target=f"/{i}" + "p" * 1900, wire=w)
        most = max(most, sum(map(size, (s.home / "log").glob("*.jsonl*"))))
    w.close()
    s.wait_record({"path": "/149"})
    # a batch comes to at most 50 ms of records
    assert most < 200 << 10, most


def name_of(sock):
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def test_clients(t):
    """a record has the client's address, and where there are several listeners the one that it came to"""
    s, up = t.proxy(credentials=[API])
    wire = s.tunnel()
    s.request(target="/one", wire=wire)
    one = s.wait_record({"path": "/one"})
    assert one["client"] == name_of(wire.sock) and "listener" not in one, one
    token = s.auth()
    s.cli("agent", "rotate", "a")
    with socket.create_connection(("127.0.0.1", s.port), 10) as sock:
        sock.sendall(f"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\n{token}\r\n".encode())
        assert b" 407 " in sock.recv(4096)
        ended = s.wait_record({"status": 407})
        assert ended["client"] == name_of(sock) and ended["agent"] == "a" and "rotated" in ended["reason"], ended
    with socket.create_connection(("127.0.0.1", s.port), 10) as sock:
        mine = name_of(sock)
        sock.sendall(b"\x16\x03\x01")
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(100):
            pass
    note = s.wait_record({"error": "not_http"})
    assert note["client"] == mine, note
    shown = s.cli("log", "--client", mine).stdout
    assert len(shown.splitlines()) == 1 and f"from {mine}" in shown, shown
    assert len(s.cli("log", "--json", "--client", "127.0.0.1").stdout.splitlines()) == len(s.records())
    assert s.cli("log", "--client", "127.0.0.2").stdout == "" and s.cli("log", "--client", mine + "1").stdout == ""
    for no_address in ("127.0.0", "127.0.0.1:", "10.0.0.0/8", "laptop", "[::1"):
        r = s.cli("log", "--client", no_address, check=False)
        assert r.returncode == 2 and "is an address" in r.stderr, (no_address, r.stderr)
    assert s.cli("log", "--host", "API.test").stdout == s.cli("log", "--host", "api.test").stdout != ""
    s.stop()
    flags = ["--listen", "127.0.0.1:0"]
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        flags += ["--listen", "[::1]:0"]
    except OSError:
        flags += ["--listen", "127.0.0.2:0"]
    again(s, up, *flags)
    lines_ = json.loads(s.cli("status", "--json").stdout)["listen"]
    assert len(lines_) >= 2, lines_
    for at in lines_:
        host, port = at.removeprefix("proxy=").rsplit(":", 1)
        with socket.create_connection((host.strip("[]"), int(port)), 10) as sock:
            sock.sendall(f"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\n{token}\r\n".encode())
            assert b" 407 " in sock.recv(4096)
            mine = name_of(sock)
        assert s.wait_record({"client": mine})["listener"] == f"{host}:{port}"
        assert f"from {mine}" in s.cli("log", "--client", host).stdout


def test_soon(t):
    """a record is seen within 200 ms, one of a flood's last refusals too; of ten tries the best counts, for a machine may pause"""
    s, up = t.proxy(workers=2, credentials=[API])
    p = subprocess.Popen([s.binary, "log", "--follow", "--json"], env=s.env, stdout=subprocess.PIPE)
    t.processes.append(p)
    seen = []

    def read():
        for line in p.stdout:
            seen.append((time.monotonic(), json.loads(line)))
    threading.Thread(target=read, daemon=True).start()
    wire = s.tunnel()
    s.request(target="/first", wire=wire)
    wait(lambda: seen, 10, "the first record")
    behind = []
    for i in range(10):
        s.request(target=f"/soon{i}", wire=wire)
        at = time.monotonic()
        wait(lambda: any(r.get("path") == f"/soon{i}" for _, r in seen), 10, "the record")
        behind.append(next(w for w, r in seen if r.get("path") == f"/soon{i}") - at)
    assert min(behind) < 0.2, behind
    behind = []
    for i in range(10):
        host = f"flood{i}.test"
        refused(s, 50, host=host)
        at = time.monotonic()
        wait(lambda: sum(r.get("count", 1) for _, r in seen if r.get("host") == host) == 50, 10, f"50 refusals of {host}")
        behind.append(max(w for w, r in seen if r.get("host") == host) - at)
    assert min(behind) < 0.25, behind       # what follows looks 25 times a second
    assert json.loads(s.cli("log", "--summary", "--json", "--host", "flood3.test").stdout)["refused"] == 50


def test_standing_still(t):
    """while the log's writer stands still a worker counts the refusals for which there is no room"""
    s, up = t.proxy(credentials=[API])
    refused(s, 1)
    wait(lambda: total(s.records()) == 1, 10, "the first record")
    pid = writer(s)
    os.kill(pid, signal.SIGSTOP)
    try:
        path = "/" + "p" * 1900
        for n in 1000, 1000:           # two MiB each: the pipe's, and the queue's half twice
            refused(s, n, target=path)
        refused(s, 5, host="other.test")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait(lambda: total(s.records(), agent="a") == 2006, 20, "the last count")
    assert "ev=log_dropped" not in s.log(), s.log()


def child_of(pid):
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rsplit(") ", 1)[1].split()[1]) == pid:
                return int(entry.name)
        except OSError:
            pass
    return None


def test_records_while_rotated(t):
    """records are written while a rotation goes on, which on a large log takes seconds, and one that is killed is made up for"""
    # A machine may end the rotation before it can be stopped: then it is begun again, in another home.
    assert any(rotated(t) for _ in range(5)), "no rotation was caught"


def rotated(t):
    s, up = t.proxy(credentials=[API], serve=False)
    s.cli("set", "log-size", "40m")
    file_of(s).parent.mkdir(mode=0o700, exist_ok=True)
    now = int(time.time() * 1000)
    line = '{"time":%d,"request":"%016x","agent":"old","decision":"allow","method":"GET","host":"h.test","port":443,"path":"/%s"}\n'
    with open(file_of(s), "w") as f:
        os.fchmod(f.fileno(), 0o600)
        for i in range(11000):
            f.write(line % (now - 1000, i, "p" * 1900))
    again(s, up)
    time.sleep(1.1)                                       # a file lives a second
    s.request(target="/begins")
    moved = file_of(s).with_name("requests.jsonl.0")
    pid = wait(lambda: child_of(writer(s)), 10, "a rotation")
    os.kill(pid, signal.SIGSTOP)
    try:
        if not moved.exists():
            return False
        s.request(target="/meanwhile")
        wait(lambda: any(json.loads(x).get("path") == "/meanwhile" for x in lines(file_of(s))), 5, "a record beside the rotation")
    finally:
        os.kill(pid, signal.SIGKILL)                      # the older half becomes FILE.1 as it is
    s.request(target="/after")
    wait(lambda: not moved.exists(), 30, "the end of the rotation")
    s.wait_record({"path": "/after"})
    s.stop()
    seen = [r["path"] for r in s.records()]
    assert seen[-3:] == ["/begins", "/meanwhile", "/after"] and len(seen) >= 10000, (len(seen), seen[-3:])
    return True
