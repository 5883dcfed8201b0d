"""Somebody who writes to the disk and has no key, beside a running proxy: what he puts back, removes or swaps is refused
and named. And a store of the format before this one."""
import hmac
import json
import os
import pathlib
import re
import shutil
import subprocess
import time

import sallyport
from real import wait

API = {"name": "api", "type": "bearer", "host": "api.test", "secrets": {"token": "canary-store-1"}}
WIDE = {"name": "wide", "type": "bearer", "host": "wide.test", "secrets": {"token": "canary-store-2"}}
DISK = pathlib.Path(sallyport.BUILD) / "disk"
KINDS = {"meta": "m", "policy": "p", "credential": "c", "bundle": "b", "agent": "a"}


def disk(s):
    """What lies in the store, as LMDB has it: {(database, key): value}."""
    text = subprocess.run([DISK, s.home / "store", "list"], check=True, capture_output=True, text=True).stdout
    rows = (line.split(" ") for line in text.splitlines())
    return {(db, bytes.fromhex(key)): bytes.fromhex(value) for db, key, value in rows}


def write(s, entries):
    """Entries as of disk(); without a value they are removed. In one transaction."""
    lines = "".join(f"{db} {key.hex()} {value.hex() if value is not None else ''}\n" for (db, key), value in entries.items())
    subprocess.run([DISK, s.home / "store", "put"], check=True, input=lines, text=True, capture_output=True)


def flipped(value, at):
    """The value with another byte there, whichever stood there."""
    changed = bytearray(value)
    changed[at] ^= 1
    return bytes(changed)


def bucket(db, key):
    """Where the table lists a record (proxy.c, table_name)."""
    h = 2166136261
    for byte in KINDS[db].encode() + len(key).to_bytes(2, "big") + key:
        h = (h ^ byte) * 16777619 & 0xffffffff
    return "meta", b"\1table/b" + ((h ^ h >> 16) % 1024).to_bytes(2, "big")


def group_of(db, key):
    """The part of the table that has that list, and those beside it."""
    return "meta", b"\1table/g" + (int.from_bytes(bucket(db, key)[1][-2:], "big") // 32).to_bytes(2, "big")


def changed(old, new, *dbs):
    """What turns `new` back into `old`: {entry: value or None}, of some databases. Counters and the table are in meta."""
    return {e: old.get(e) for e in old.keys() | new.keys() if old.get(e) != new.get(e) and (e[0] in dbs or not dbs)}


def proxy(t, **options):
    if not DISK.exists():
        t.skip("build/disk is not built: ./build.sh build tests/real/disk.c")
    s, up = t.proxy(workers=2, credentials=[API, WIDE], serve=False)
    start(s, up, **options)
    return s, up


def start(s, up):
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", *(f for host in ("api", "wide", "more") for f in (
        "--connect-to", f"{host}.test:443:127.0.0.1:{up.port}")))


def statuses(s, host="api.test", name="a", n=6):
    """Of several requests, so that every worker is asked. 407 is the answer to CONNECT."""
    found = set()
    for _ in range(n):
        try:
            found.add(s.request(host=host, auth=s.auth(name=name)).status)
        except AssertionError as e:
            found.add(int(re.search(r"HTTP/1.1 ([0-9]+)", str(e))[1]))
    return found


def nudge(s, n=[0]):
    """Something else changes, so that every worker looks again."""
    n[0] += 1
    s.cli("bundle", "add", f"nudge{n[0]}")


def doctor(s, *args):
    """What doctor finds bad of the records and of the store."""
    r = s.cli("doctor", "--json", *args, check=False)
    found = json.loads(r.stdout)
    assert isinstance(found, list), found
    return [c["text"] for c in found if c["level"] == "bad" and c["check"] in ("records", "store")]


def test_agent_put_back(t):
    """a revoked agent, whose older records are put back beside the running server, stays refused and is named"""
    s, _ = proxy(t)
    s.agent("temp")
    assert statuses(s, name="temp") == {200}
    before = disk(s)
    s.cli("agent", "revoke", "temp")
    assert statuses(s, name="temp") == {407}
    after = disk(s)
    write(s, changed(before, after, "agent"))       # the agent, its token, and how the token ended
    nudge(s)
    assert statuses(s, name="temp") == {407} and statuses(s) == {200}
    wait(lambda: "ev=record_refused db=agent key=t/" in s.log(), 5, "its name in the log")
    assert s.log().count("ev=record_refused") <= 2, "once in each worker, however often it is asked"
    found = doctor(s)
    assert any("agent/a/temp is refused: an older one was put in its place on the disk" in x for x in found), found
    assert any("agent/t/" in x and "it had been removed" in x for x in found), found
    # and those that come with parts of the table
    table = changed(before, after, "meta")
    for part in (b"\1table/b", b"\1table/g"):
        write(s, {e: v for e, v in table.items() if e[1].startswith(part)})
        assert statuses(s, name="temp") == {407}, part
    s.cli("agent", "list", check=False)
    assert statuses(s, name="temp") == {407}
    s.stop()
    r = s.cli("doctor", check=False)
    assert r.returncode == 1 and "table of records" in r.stdout + r.stderr, r.stdout + r.stderr


def test_hidden_from_rotate(t):
    """a token that was off the disk while its agent was rotated or made anew stays dead; what lies in a way hinders no revoking"""
    s, _ = proxy(t)
    for i, command in enumerate((("rotate",), ("revoke", "add"), ("remove", "add"))):
        for j, what in enumerate(("the record", "the record and its part of the table")):
            name = f"temp{i}{j}"
            before = disk(s)
            s.agent(name)
            assert statuses(s, name=name) == {200}
            now = disk(s)
            token = {e: v for e, v in now.items() if e not in before and e[1].startswith(b"t/")}
            assert len(token) == 1
            node = bucket(*next(iter(token)))
            part = {node: now[node]}
            s.tokens["old"] = s.tokens[name]
            write(s, {e: None for e in token})
            if j:
                write(s, {node: now[node][:-1] + bytes([now[node][-1] ^ 1])})
            for verb in command:
                token_now = s.cli("agent", verb, name).stdout.strip()
            s.tokens[name] = token_now
            if disk(s)[node] == now[node][:-1] + bytes([now[node][-1] ^ 1]):
                write(s, part)          # nothing else was written there
            write(s, token)
            nudge(s)
            assert statuses(s, name="old") == {407} and statuses(s, name=name) == {200}, (what, command)
    s.agent("last")
    for e in [e for e in disk(s) if e[1].startswith(b"t/")]:
        write(s, {("agent", b"e/" + e[1][2:]): b"junk"})
    s.tokens["old"] = s.tokens["last"]
    s.cli("agent", "rotate", "last")
    assert statuses(s, name="old") == {407}
    s.cli("agent", "revoke", "last")


def test_whole_table_put_back(t):
    """a whole older store put back beside the running server is refused, whoever reads it"""
    s, _ = proxy(t)
    s.agent("temp")
    before = disk(s)
    s.cli("agent", "revoke", "temp")
    assert statuses(s, name="temp") == {407}
    write(s, changed(before, disk(s)))
    got = statuses(s, name="temp")
    assert got <= {407, 503}, got
    wait(lambda: "ev=store_set_back" in s.log(), 5, "its name in the log")
    assert statuses(s) == {503}
    for _ in range(5):          # commands go on from what was put back, past the generation that the server has seen
        nudge(s)
    assert statuses(s, name="temp") == {503}
    s.may_die = "yes"
    for pid in s.worker_pids():
        os.kill(pid, 9)
    wait(lambda: "ev=worker_died" in s.log(), 5, "a new worker")
    try:
        got = statuses(s, name="temp", n=2)
    except (OSError, ConnectionError):
        got = set()
    assert 200 not in got and 407 not in got, got


def test_files_replaced(t):
    """files of the store that are moved away or replaced beside the running server: it follows what commands write"""
    s, up = proxy(t)
    for name in ("data.mdb", "lock.mdb"):
        s.agent(name[0])
        assert statuses(s, name=name[0]) == {200}
        path = s.home / "store" / name
        copy = path.with_suffix(".copy")
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o600)
        copy.rename(path)
        s.cli("agent", "revoke", name[0])
        wait(lambda: statuses(s, name=name[0], n=4) == {407}, 10, f"the revocation, with another {name}")
        wait(lambda: statuses(s) == {200}, 10, "the others, in each worker")       # 503 until it has opened the new one
        assert "ev=store_set_back" not in s.log(), s.log()
    path.rename(path.with_suffix(".away"))
    (s.home / "store/data.mdb").rename(s.home / "store/data.away")
    wait(lambda: statuses(s, n=4) == {503}, 10, "the refusal without a store")
    assert not (s.home / "store/data.mdb").exists(), "nobody makes an empty one"
    (s.home / "store/data.away").rename(s.home / "store/data.mdb")
    path.with_suffix(".away").rename(path)
    wait(lambda: statuses(s, n=4) == {200}, 10, "the store")
    assert "ev=store_replaced" in s.log()
    assert "ev=record_refused" not in s.log(), s.log()
    # the folder as a whole, and what is no store
    store, away = s.home / "store", s.home / "store.away"
    store.rename(away)
    shutil.copytree(away, store)
    s.cli("agent", "rotate", "a")
    wait(lambda: statuses(s, n=4) == {407}, 10, "the revocation, with another folder")
    s.tokens["a"] = s.cli("agent", "rotate", "a").stdout.strip()
    wait(lambda: statuses(s) == {200}, 10, "the new token, in each worker")
    data = store / "data.mdb"
    for junk in (b"", b"no store" * 1000, data.read_bytes()[:20000]):
        data.rename(store / "data.away")
        data.write_bytes(junk)
        data.chmod(0o600)
        wait(lambda: statuses(s, n=4) == {503}, 10, f"the refusal of {len(junk)} bytes")
        (store / "data.away").rename(data)
        wait(lambda: statuses(s) == {200}, 10, "the store")
    assert "ev=store_set_back" not in s.log(), s.log()
    # an older one: whom it would admit again is refused
    s.agent("old")
    wait(lambda: statuses(s, name="old") == {200}, 10, "the agent, in each worker")
    older = data.read_bytes()
    s.cli("agent", "revoke", "old")
    wait(lambda: statuses(s, name="old") == {407}, 10, "the revocation, in each worker")
    (store / "data.older").write_bytes(older)
    (store / "data.older").rename(data)
    for _ in range(30):
        assert 200 not in statuses(s, name="old", n=2)
        time.sleep(0.1)
    assert statuses(s) == {503} and "ev=store_set_back" in s.log(), s.log()


def test_foreign_entries(t):
    """entries of no kind of ours: they end nobody, backups leave out what nobody could restore, and they can be removed"""
    s, up = proxy(t)
    s.agent("temp")
    write(s, {(db, key): value for db in ("agent", "credential", "bundle", "policy") for key, value in (
        (b" " * 505, b"z"), (b"x" * 505, b"SPR" + b"\2" * 100), (b"a/nul\0", b"SPR" + b"\2" * 100), (b"a/empty", b"\0"), (b"y" * 511, b"z"))})
    nudge(s)
    old = s.tokens["temp"]
    s.tokens["temp"] = s.cli("agent", "rotate", "temp").stdout.strip()
    assert statuses(s) == {200} and statuses(s, name="temp") == {200}
    s.tokens["old"] = old
    assert statuses(s, name="old") == {407}, "what stands before its record hides no token from rotate"
    s.stop()
    start(s, up)
    assert statuses(s) == {200}
    for args in (("credential", "list"), ("agent", "list"), ("bundle", "list"), ("policy", "list"), ("backup", s.dir / "b")):
        r = s.cli(*args, check=False)
        assert r.returncode == 0, (args, r.stderr)
    assert len(doctor(s)) == 20, doctor(s)
    s.cli("doctor", "--remove", check=False)
    assert doctor(s) == [] and statuses(s) == {200}
    s.stop()
    s.cli("restore", s.dir / "b")
    s.cli("doctor", "--remove", check=False)
    start(s, up)
    assert statuses(s) == {200}


def test_credentials_put_back(t):
    """credentials: removed, disabled or narrowed, and put back; two that change places; one that is gone"""
    s, up = proxy(t)
    s.credential({"name": "more", "host": "more.test", "secrets": {"token": "canary-store-3"}})
    for host in ("api.test", "wide.test", "more.test"):
        assert statuses(s, host) == {200}, host
    before = disk(s)
    s.cli("credential", "remove", "api")
    s.cli("credential", "disable", "wide")
    s.cli("credential", "set", "more", "--path", "/v2")
    n = len(up.requests)
    for host in ("api.test", "wide.test", "more.test"):
        assert 200 not in statuses(s, host), host
    write(s, changed(before, disk(s), "credential"))
    nudge(s)
    for host in ("api.test", "wide.test", "more.test"):
        assert 200 not in statuses(s, host), host
    assert len(up.requests) == n
    found = doctor(s)
    for name in ("api", "wide", "more"):
        assert any(f"credential/{name} is refused: " in x for x in found), (name, found)
    r = s.cli("credential", "show", "wide", check=False)
    assert r.returncode == 1 and "wide" in r.stderr and "doctor" in r.stderr, r.stderr
    s.stop()
    start(s, up)
    for name, why in (("api", "unknown"), ("wide", "older"), ("more", "older")):
        wait(lambda: f"ev=record_refused db=credential key={name} err={why}" in s.log(), 5, "the name in the log")
    # what mends it
    s.cli("credential", "remove", "api")
    s.cli("credential", "remove", "wide")
    s.cli("credential", "remove", "more")
    assert doctor(s) == [], doctor(s)
    s.credential(API)
    s.credential(WIDE)
    assert statuses(s) == {200} and statuses(s, "wide.test") == {200}
    # names change places
    now = disk(s)
    write(s, {("credential", b"api"): now["credential", b"wide"], ("credential", b"wide"): now["credential", b"api"]})
    s.stop()
    start(s, up)
    assert 200 not in statuses(s) and 200 not in statuses(s, "wide.test")
    # gone
    write(s, {("credential", b"api"): now["credential", b"api"], ("credential", b"wide"): None})
    nudge(s)
    assert any("credential/wide is refused: it was removed on the disk" in x for x in doctor(s)), doctor(s)
    assert "wide" in s.cli("credential", "list").stdout, "one that is gone is still listed"
    r = s.cli("credential", "show", "wide", check=False)
    assert r.returncode == 1 and "no credential" not in r.stderr, r.stderr


def test_policy_and_setting_removed(t):
    """a policy or a setting that is removed on the disk does not make room for the built-in one"""
    s, up = proxy(t)
    source = s.cli("policy", "show", "bearer").stdout
    s.policy("bearer", source.replace("return {", "-- ours\nreturn {", 1))
    s.cli("set", "echo", "off")
    assert statuses(s) == {200}
    now = disk(s)
    write(s, {e: None for e in now if e[0] == "policy"} | {("meta", b"set/echo"): None})
    nudge(s)
    s.stop()
    r = s.cli("serve", "--listen", "127.0.0.1:0", check=False, timeout=10)
    assert r.returncode == 1 and "the setting echo is refused" in r.stderr and "sallyport set echo" in r.stderr, r.stderr
    s.cli("set", "echo", "off")
    start(s, up)
    assert statuses(s) <= {502, 503}, statuses(s)
    assert "ev=record_refused db=policy key=bearer" in s.log(), s.log()[-1500:]
    r = s.cli("policy", "list", check=False)
    assert "bearer" in r.stdout + r.stderr
    s.policy("bearer", source)
    assert statuses(s) == {200}


def test_mended(t):
    """doctor --accept: what lies there is taken, named, and only while no server runs"""
    s, up = proxy(t)
    s.agent("temp")
    before = disk(s)
    s.cli("agent", "revoke", "temp")
    s.cli("bundle", "add", "gone")
    write(s, changed(before, disk(s), "agent", "bundle"))
    r = s.cli("doctor", "--accept", check=False)
    assert r.returncode == 1 and "a server runs" in r.stderr and "stop it first" in r.stderr, r.stderr
    s.stop()
    rows = json.loads(s.cli("doctor", "--accept", "--json", check=False).stdout)
    said = [r["text"] for r in rows if r["check"] == "accepted"]
    assert len(said) == 4 and all(r["level"] == "warn" for r in rows if r["check"] == "accepted"), said     # the agent, its token, how that ended
    assert any(x == "agent/a/temp: an older one was put in its place on the disk; from now on that is as it should be" for x in said), said
    assert "bundle/gone: it was removed on the disk; from now on it does not exist" in said, said
    record = sallyport.rows(s.cli("log", "--json", "--kind", "change").stdout)[-1]
    assert record["command"] == "doctor" and {"record": "agent/a/temp", "did": "accepted"} in record["changes"], record
    assert doctor(s) == [], doctor(s)
    start(s, up)
    assert statuses(s, name="temp") == {200}, "an operator said so"
    # doctor --remove: beside the running server, and nobody comes back
    assert s.cli("agent", "list").stdout.count("temp") == 1
    old = disk(s)
    s.cli("agent", "revoke", "temp")
    write(s, changed(old, disk(s), "agent"))
    r = s.cli("doctor", "--remove", check=False)
    assert "agent/a/temp: an older one was put in its place on the disk; removed" in r.stdout, r.stdout
    assert doctor(s) == [] and statuses(s, name="temp") == {407} and "temp" not in s.cli("agent", "list").stdout
    r = s.cli("doctor", "--remove", "--accept", check=False)
    assert r.returncode == 2, r.stderr
    # no root before that passes for a newer one
    write(s, {e: v for e, v in before.items() if e[0] == "meta" and e[1].startswith(b"\1table")})
    assert statuses(s, name="temp") <= {407, 503}


def test_commands_on_refused_records(t):
    """each command that makes or ends a record works on one that was put back, changed or removed; others say what is wrong"""
    s, up = proxy(t)
    source = s.dir / "bearer.lua"
    source.write_text(s.cli("policy", "show", "bearer").stdout + "-- ours\n")
    key = s.dir / "k"
    key.write_text("canary-store-9")
    make = {
        ("credential", b"c"): ("credential", "add", "c", "--type", "bearer", "--host", "c.test", f"token=@{key}"),
        ("agent", b"a/x"): ("agent", "add", "x"),
        ("bundle", b"b"): ("bundle", "add", "b"),
        ("bundle", b"default/d.test"): ("domain", "add", "default", "d.test"),
        ("policy", b"bearer"): ("policy", "put", source),
        ("meta", b"set/echo"): ("set", "echo", "off"),
    }
    end = {
        ("credential", b"c"): ("credential", "remove", "c"), ("agent", b"a/x"): ("agent", "revoke", "x"),
        ("bundle", b"b"): ("bundle", "remove", "b"), ("bundle", b"default/d.test"): ("domain", "remove", "default", "d.test"),
        ("policy", b"bearer"): ("policy", "rollback", "bearer", "0"), ("meta", b"set/echo"): ("set", "echo", "--default"),
    }
    s.cli("credential", "remove", "wide")
    for (db, name), command in make.items():
        entry = (db, name)
        before = disk(s)
        s.cli(*command)
        made = disk(s)
        assert entry in made, [e for e in made if e not in before]
        s.cli(*end[entry])
        ended = disk(s)
        harm = {"put back": {entry: made[entry]}, "changed": {entry: flipped(made[entry], 60)}}
        for what, entries in harm.items():
            for mend in (command, end[entry]):
                write(s, entries)
                assert any(f"{db}/{name.decode()} is refused" in x for x in doctor(s)), (what, doctor(s))
                r = s.cli(*mend, check=False)
                if r.returncode == 1:
                    assert mend == command and "is refused" in r.stderr and "remove it and add it again" in r.stderr, (what, mend, r.stderr)
                    s.cli(*end[entry])
                    r = s.cli(*mend, check=False)
                assert r.returncode == 0, (what, mend, r.stderr)
                assert not any(f"{db}/{name.decode()} is refused" in x for x in doctor(s)), (what, mend, doctor(s))
                if mend == command:
                    s.cli(*end[entry])
        s.cli(*command)
        for mend in (command, end[entry]):
            write(s, {entry: None})
            assert f"{db}/{name.decode()} is refused: it was removed on the disk" in doctor(s), doctor(s)
            r = s.cli(*mend, check=False)
            if r.returncode == 1:
                assert mend == command and "is refused" in r.stderr and "remove it and add it again" in r.stderr, (mend, r.stderr)
                s.cli(*end[entry])
                r = s.cli(*mend, check=False)
            assert r.returncode == 0, ("gone", mend, r.stderr)
            assert not any(f"{db}/{name.decode()} is refused" in x for x in doctor(s)), ("gone", mend, doctor(s))
        del before, ended
    s.cli("doctor", "--remove", check=False)
    assert doctor(s) == [], doctor(s)
    assert statuses(s) == {200}


def test_table_changed(t):
    """a table that was changed: nothing is opened, and a backup, or an operator's word, mends it; parts of it refuse their records alone"""
    s, up = proxy(t)
    s.agent("temp")
    s.cli("backup", s.dir / "backup")
    s.stop()
    now = disk(s)
    root = ("meta", b"\1table")
    for mend in (("restore", s.dir / "backup"), ("doctor", "--accept")):
        write(s, {root: flipped(now[root], 100)})
        for args in (("serve", "--listen", "127.0.0.1:0"), ("agent", "list"), ("agent", "revoke", "temp"), ("doctor", "--remove")):
            r = s.cli(*args, check=False, timeout=10)
            assert r.returncode == 1 and "its table of records is not the one that was written last" in r.stderr and "restore" in r.stderr, (args, r.stderr)
        assert any("table of records" in x for x in doctor(s)), doctor(s)
        r = s.cli(*mend, check=False)
        assert mend[0] == "restore" or "nobody knows which of them were put back" in r.stdout, r.stdout + r.stderr
        assert doctor(s) == [] and "temp" in s.cli("agent", "list").stdout, doctor(s)
    # the part that lists the record of the store's keys: it may be an older one, so nothing is opened
    group = group_of("meta", b"keys")
    s.cli("bundle", "add", next(name for name in map("b{}".format, range(9999)) if group_of("bundle", name.encode()) == group))
    s.cli("backup", s.dir / "backup2")
    for mend in (("restore", s.dir / "backup2"), ("doctor", "--accept")):
        write(s, {group: flipped(disk(s)[group], -1)})
        r = s.cli("agent", "list", check=False)
        assert r.returncode == 1 and "has keys that are not as its table of records lists them" in r.stderr and "restore" in r.stderr, r.stderr
        assert any("table of records" in x for x in doctor(s)), doctor(s)
        s.cli(*mend, check=False)
        assert doctor(s) == [] and "temp" in s.cli("agent", "list").stdout, doctor(s)
    # the part that lists a setting which doctor reads
    s.cli("set", "public", s.dir / "clients")
    group = group_of("meta", b"set/public")
    whole = disk(s)[group]
    write(s, {group: flipped(whole, -1)})
    found = json.loads(s.cli("doctor", "--json", check=False).stdout)
    assert any(c["check"] == "client files" and "the setting public is refused" in c["text"] for c in found), found
    assert any("the table of records was changed in" in c["text"] for c in found) and found[-1]["check"] == "agents' user", found
    write(s, {group: whole})
    # every bucket: nothing is known, so that nothing is allowed
    now = disk(s)
    write(s, {e: None for e in now if e[1].startswith(b"\1table/b")})
    assert any("the table of records was changed in" in x for x in doctor(s)), doctor(s)
    r = s.cli("serve", "--listen", "127.0.0.1:0", check=False, timeout=10)
    assert r.returncode == 1, r.stderr
    r = s.cli("credential", "show", "api", check=False)
    assert r.returncode == 1 and "the credential 'api' is refused" in r.stderr or "credential 'api'" in r.stderr, r.stderr
    s.cli("doctor", "--accept", check=False)
    assert doctor(s) == [], doctor(s)
    start(s, up)
    assert statuses(s) == {200} and statuses(s, name="temp") == {200}


def sealed(value):
    """The sealed secrets of a record: {name: nonce, ciphertext and tag}."""
    plain = int.from_bytes(value[16:20], "big")
    out, at = {}, 48 + plain
    while at < len(value) - 32:
        name, n = value[at + 1:at + 1 + value[at]], 0
        at += 1 + len(name)
        n = int.from_bytes(value[at:at + 4], "big")
        out[name] = value[at + 4:at + 4 + 12 + n + 16]
        at += 4 + 12 + n + 16
    return out


def opened(s, datakey, entries):
    """Which sealed secrets the data key opens that this entry wraps, and how many there are: (set of texts, n)."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    kek = bytes.fromhex((s.home / "key").read_text())
    root = ChaCha20Poly1305(kek).decrypt(datakey[24:36], datakey[36:], datakey[:24])
    key, texts, n = ChaCha20Poly1305(hmac.digest(root, b"sallyport seal 1", "sha256")), set(), 0
    for (db, name), value in entries.items():
        for field, text in (sealed(value) if value[:3] == b"SPR" else {}).items():
            place = bytes([len(db)]) + db.encode() + len(name).to_bytes(2, "big") + name + bytes([len(field)]) + field
            n += 1
            try:
                texts.add(key.decrypt(text[:12], text[12:], place))
            except InvalidTag:
                pass
    return texts, n


DATAKEY = "meta", b"\1datakey"


def test_data_key(t):
    """a change of the data key: all records stay, sealed anew in a file in which nothing opens with the old one; what is refused stops it"""
    s, up = proxy(t)
    assert statuses(s) == {200}
    s.agent("temp")
    s.stop()
    before = disk(s)
    secrets, n = opened(s, before[DATAKEY], before)
    assert {b"canary-store-1", b"canary-store-2"} <= secrets and n >= len(secrets)
    key = (s.home / "key").read_bytes()
    told = json.loads(s.cli("store", "rekey", "--json").stdout)
    assert told["changes"] == 1 and not (s.home / "rekey").exists() and (s.home / "key").read_bytes() == key, told
    after, raw = disk(s), (s.home / "store/data.mdb").read_bytes()
    assert before[DATAKEY] != after[DATAKEY] and opened(s, before[DATAKEY], after)[0] == set()
    assert secrets <= opened(s, after[DATAKEY], after)[0]
    for entry, value in before.items():
        for text in (sealed(value) if value[:3] == b"SPR" else {}).values():
            assert text not in raw and text[:12] not in raw, entry
        if value[:3] == b"SPR":
            plain = 48 + int.from_bytes(value[16:20], "big")
            assert after[entry][:plain] == value[:plain] and value[-32:] not in raw, entry     # with version, id and epoch
    assert before[DATAKEY] not in raw and before[DATAKEY][24:] not in raw
    assert doctor(s) == []
    gone = bytes(48)                    # of the key that opened what was sealed before, whose number was 0
    assert gone not in opened(s, after[DATAKEY], after)[0]
    s.set_clock(4 * 86400)              # past the end of those texts: it goes when a server starts, and a clock that is set back brings none
    start(s, up)
    s.set_clock(0)
    after = disk(s)
    assert gone in opened(s, after[DATAKEY], after)[0] and doctor(s) == []
    assert statuses(s) == statuses(s, "wide.test") == statuses(s, name="temp") == {200}
    changes = [json.loads(line) for line in s.cli("log", "--json", "--kind", "change").stdout.splitlines()]
    assert {"record": "the data key", "did": "changed"} in changes[-1]["changes"] and changes[-1]["command"] == "store rekey", changes[-1]
    s.cli("agent", "revoke", "temp")
    s.stop()
    write(s, {e: after[e] for e in after if e[0] == "agent"})        # an older one
    r = s.cli("store", "rekey", check=False)
    assert r.returncode == 1 and "is refused" in r.stderr and "doctor" in r.stderr and not (s.home / "rekey").exists(), r.stderr
    assert "agent/" in "".join(doctor(s))
    assert s.cli("store", "rekey", "--texts", "0s", check=False).returncode == 2


def test_data_key_killed(t):
    """kill -9 at each step of a change of the data key: the old store or the new one, whole; what is left is named, and goes with the next"""
    s, _ = proxy(t)
    s.stop()
    work, data = s.home / "rekey", s.home / "store/data.mdb"
    was = disk(s)
    steps = [lambda: work.exists(), lambda: (work / "stream").exists(), lambda: (work / "store/data.mdb").exists(),
             lambda: not (s.home / "store/lock.mdb").exists(), lambda: data.stat().st_ino != inode, lambda: not work.exists() and data.stat().st_ino != inode]
    for step in steps:
        shutil.rmtree(work, ignore_errors=True)
        s.cli("credential", "list")         # the readers' lock file is there
        inode = data.stat().st_ino
        p = subprocess.Popen([s.binary, "store", "rekey"], env=s.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while p.poll() is None and not step():
            pass
        p.kill()
        p.wait()
        now = disk(s)
        if data.stat().st_ino == inode:
            assert now[DATAKEY] == was[DATAKEY]
        else:
            assert now[DATAKEY] != was[DATAKEY] and opened(s, was[DATAKEY], now)[0] == set()
        assert not work.exists() or any(c["check"] == "data key" and "cut off" in c["text"] for c in json.loads(s.cli("doctor", "--json", check=False).stdout))
        assert {b"canary-store-1", b"canary-store-2"} <= opened(s, now[DATAKEY], now)[0] and doctor(s) == []
        was = now
    s.cli("store", "rekey")
    assert not work.exists() and disk(s)[DATAKEY] != was[DATAKEY] and doctor(s) == []


def test_listed(t):
    """the databases that `doctor` looks through and lists anew are those whose records the program wants to be listed"""
    tree = pathlib.Path(__file__).resolve().parent.parent.parent
    wanted = re.findall(r"""= \{"(\w+)", BUMP_\w+, '\w'\}""", (tree / "proxy.c").read_text())
    listed = re.search(r"M.LISTED = \{(.*?)\}", (tree / "lua/store.lua").read_text())[1]
    assert len(wanted) > 8 and re.findall(r"\w+", listed) == wanted, (wanted, listed)
    names = re.findall(r"""= \{"(\w+)", BUMP_""", (tree / "proxy.c").read_text())
    archive = (tree / "lua/cli/archive.lua").read_text()
    kept = " ".join(re.search(rf"local {of} = \{{(.*?)\}}", archive)[1] for of in ("DATABASES", "FLEETING"))
    assert sorted(re.findall(r"\w+", kept)) == sorted(names), "a change of the data key takes all along"
