"""Runs wire cases: the real binary between a scripted client and scripted upstreams. A case is data: example.lua shows the form.

tests/wire/harness.py --keys                     prints what a case may say
tests/wire/harness.py BINARY FILE.lua [WORD…]   prints "ok", "not ok" or "skip" and the case's name, one a line
tests/wire/harness.py --h2 BINARY FILE.lua …     the client speaks HTTP/2: those cases alone that mean the same there
"""
import base64
import json
import pathlib
import re
import ssl
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import sallyport  # noqa: E402
from peers import Upstream, parse_responses  # noqa: E402

H2 = "--h2" in sys.argv
if H2:
    sys.argv.remove("--h2")
    try:
        from h2_wire import H2Wire, NotTheSame, check_case  # noqa: E402
    except ModuleNotFoundError as e:
        print(f"skip {pathlib.Path(sys.argv[2]).stem} over HTTP/2 - {e}")
        sys.exit(0)
else:
    class NotTheSame(Exception):
        """Of h2_wire: never raised here."""

# What a case may say, and what it means; `harness.py --keys` prints it. Another key fails the case. example.lua shows them in use.
SETUP = {
    "credential": "one, or `credentials`: { name, type or preset, host, port, method, path, bundle, address, seal-host, env, placeholder, substitute,"
                  " answer-timeout, idle-timeout, plain_http, fields, secrets }",
    "credentials": "a list of them",
    "domains": "{ host, bundle, method, port, path, address, tunnel }",
    "bundles": "names, beside `default`",
    "agents": "{ name, bundles, ttl }; `a` is there anyway",
    "policies": "{ name, source }",
    "set": "settings by name",
    "before": "commands that run before the server",
    "serve": "flags of `serve`",
    "workers": "how many; 1",
    "resolve": "addresses by name; ` / ` parts one look-up's answer from the next",
    "hosts": "names of the main upstream; api.test",
    "upstream_tls": "its certificate: a name of tests/certs.py",
    "servers": "further upstreams by name: { host, plain, port, tls, alpn, refuse, delay, at_connect, reply }; `auth` is the token endpoint",
    "may_die": "workers are killed on purpose",
}
CASE = {
    "name": "said when it fails",
    "via": "`tunnel` (CONNECT, then TLS; the default), `connect` (CONNECT, then as it stands) or `proxy` (as it stands)",
    "host": "of the CONNECT; api.test",
    "port": "of the CONNECT; 443",
    "token": "an agent's name, `none` or `bad`",
    "sni": "of the client's TLS", "alpn": "of the client's TLS", "tls": "the client's highest version",
    "send": "text or steps. ${AUTH}, ${TOKEN}, ${PORT}, ${UPSTREAM} are filled in, with `:NAME` for others; ${ENV:NAME} is agent a's variable,"
            " ${KEPT:NAME} what a step kept (:cut:N without its last bytes, :tail:N its first, :flip:N another letter there), ${BASIC:TEXT} its Base64, in which ${…} is [[…]]",
    "client": "several clients at once, each with what differs",
    "times": "how often `send` is sent, each on a connection of its own",
    "upstream": "what the main upstream does: { reply, … } as in `servers`",
    "token_endpoint": "its answers in turn",
    "clock": "seconds that the test clock is ahead",
    "refuse": "a script that `policy put` must refuse",
    "canaries": "texts that must be nowhere at the end, beside every secret and token",
    "wait": "seconds before the log is looked at", "timeout": "seconds for the client",
    "skip": "why the case cannot run",
    "expect": "see EXPECT",
}
STEPS = {
    "of a client": "text, seconds, { repeat, times, every }, { bytewise, every }, { until = text }, { answers = N }, { clock }, { cli }, { policy }, { keep = NAME, from = regular expression },"
                   " { chunked = text }, which is a body and its end,"
                   " { server }, { unread = seconds }, { half_close }, { close_notify }, { reset }, { close = true or `ragged` }",
    "of an upstream's `reply`": "`echo` (the request as JSON), text, { status, headers, body, type } or { steps = { text, seconds, { repeat, times },"
                                " { bytewise }, { until }, { relay }, { half_close }, { reset }, { close } } }; a list is one answer a request, the last repeats",
}
EXPECT = {
    "status": "of the answer", "statuses": "of the answers, in turn", "answers": "how many",
    "error": "X-Sallyport-Error", "headers": "that are there", "no_headers": "that are not",
    "body": "the whole", "body_has": "a text in it", "body_not": "a text not in it", "body_size": "bytes",
    "raw_has": "in all that the client read", "raw_not": "not in it", "interim": "1xx answers before it",
    "closed": "the connection is closed after it", "truncated": "the client can tell that the answer was cut", "no_answer": "none came",
    "tls_error": "what ended the handshake", "connect_status": "of the CONNECT",
    "within": "seconds at most", "after": "seconds at least",
    "log": "one record has all of these", "log_never": "texts that no record has",
    "cli": "a command's output", "token_requests": "how many reached the token endpoint",
    "upstream": "`nothing` (not one byte) or { requests, connections, cut, line, lines, header, no_header, head_has, head_not, body, raw_body, body_size }",
    "servers": "the same, by the name of a server",
}


def changed(text, how=None, n="0"):
    """A kept text: `cut` N bytes at its end, `flip` another letter in place of the N-th from the end, `tail` without the first N."""
    if how == "cut":
        return text[:-int(n)]
    if how == "flip":
        at = len(text) - int(n)
        return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1:]
    if how == "tail":
        return text[int(n):]
    assert how is None, how
    return text


def as_list(v):
    return v if isinstance(v, list) else [] if v in (None, {}) else [v]


def check_keys(table, known, where):
    unknown = set(table) - set(known)
    assert not unknown, f"{where}: unknown keys {sorted(unknown)}"


class World:
    """A server with its upstreams: for one case, or shared by all in a file."""

    def __init__(self, binary, setup):
        self.setup, certs = setup, sallyport.certs()
        self.s = s = sallyport.Sallyport(binary, setup.get("workers", 1))
        self.ups, self.kept = {}, {}
        try:
            s.may_die = "yes" if setup.get("may_die") else None
            s.init()
            specs = {"main": {"host": setup.get("hosts") or "api.test", "tls": setup.get("upstream_tls", "ok")},
                     **(setup.get("servers") or {})}
            flags = ["--upstream-ca", certs / "root.pem"]
            for name, spec in specs.items():
                up = self.ups[name] = Upstream(spec, certs)
                for host in as_list(spec.get("host")) if spec.get("dial", True) else []:
                    port = spec.get("port", 80 if spec.get("plain") else 443)
                    shown = f"[{host}]" if ":" in host else host
                    flags += ["--connect-to", f"{shown}:{port}:127.0.0.1:{up.port}"]
            s.resolve_file.write_text("".join(f"{n} {a}\n" for n, a in (setup.get("resolve") or {}).items()))
            for b in as_list(setup.get("bundles")):
                s.cli("bundle", "add", b)
            for p in as_list(setup.get("policies")):
                s.policy(p["name"], self.fill(p["source"]))
            for c in as_list(setup.get("credentials")) + as_list(setup.get("credential")):
                s.credential(json.loads(self.fill(json.dumps(c))))
            for d in as_list(setup.get("domains")):
                s.domain(d)
            for a in as_list(setup.get("agents")) or [{"name": "a"}]:
                s.agent(a["name"], as_list(a.get("bundles")), a.get("ttl"))
            for name, value in (setup.get("set") or {}).items():
                s.cli("set", name, value)
            for args in as_list(setup.get("before")):
                s.cli(*[self.fill(a) for a in args])
            s.serve(*flags, *map(self.fill, as_list(setup.get("serve"))))
        except BaseException:
            self.close()
            raise

    def fill(self, text):
        if "${" not in text:
            return text
        text = text.replace("${PORT}", str(getattr(self.s, "port", "")))
        text = re.sub(r"\$\{BASIC:([^{}]*)\}", lambda m: base64.b64encode(
            self.fill(m[1].replace("[[", "${").replace("]]", "}")).encode()).decode(), text)
        if H2 and any(name not in self.kept for name in re.findall(r"\$\{KEPT:(\w+)", text)):
            raise NotTheSame("what another case keeps, which did not run")
        text = re.sub(r"\$\{KEPT:(\w+)((?::\w+)*)\}", lambda m: changed(self.kept[m[1]], *m[2].split(":")[1:]), text)
        text = re.sub(r"\$\{ENV:(\w+)\}", lambda m: self.environment()[m[1]], text)
        text = re.sub(r"\$\{UPSTREAM(?::(\w+))?\}", lambda m: str(self.ups[m[1] or "main"].port), text)
        text = re.sub(r"\$\{AUTH(?::(\w+))?\}", lambda m: self.s.auth(name=m[1] or "a"), text)
        return re.sub(r"\$\{TOKEN(?::(\w+))?\}", lambda m: self.s.tokens[m[1] or "a"], text)

    def environment(self):
        """What agent `a` has in its environment: its placeholders."""
        if not hasattr(self, "held"):
            self.held = json.loads(self.s.cli("env", "--agent", "a", "--json").stdout)
        return self.held

    def close(self):
        try:
            return self.s.stop()
        finally:
            for up in self.ups.values():
                up.stop()


class Client:
    """Follows the steps of `send`, keeps every byte that comes back."""

    def __init__(self, world, case):
        self.world, self.case, self.got, self.tls_error, self.eof = world, case, bytearray(), None, None
        self.connect_status, self.methods = None, []

    def token(self):
        token = self.case.get("token", "a")
        if token == "none":
            return ""
        if token == "bad":
            return self.world.s.auth("sp_agt_" + "A" * 43)
        return self.world.s.auth(name=token)

    def open(self):
        s, case = self.world.s, self.case
        via, host = case.get("via", "tunnel"), case.get("host", "api.test")
        self.wire = s.connect()
        if via == "proxy":
            return
        shown = f"[{host}]" if ":" in host else host
        port = case.get("port", 443)
        self.wire.send(f"CONNECT {shown}:{port} HTTP/1.1\r\nHost: {shown}:{port}\r\n{self.token()}\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            part = self.wire.recv(10 * sallyport.SLOW)
            head += part
            if not part:
                break
        interim, final, rest = parse_responses(head, ["CONNECT"], not part)
        self.connect_status = final[0].status if final else 0
        if self.connect_status != 200:
            self.got += head
            raise ConnectionError
        self.got += rest
        if via == "tunnel":
            options = {"alpn": ["h2"]} if H2 else {"alpn": as_list(case["alpn"])} if "alpn" in case else {}
            context = s.client_context(**options)
            if case.get("tls") == "tls13_only":
                context.maximum_version = context.minimum_version = ssl.TLSVersion.TLSv1_3
            self.wire.start_tls(context, name=case.get("sni", host), timeout=15 * sallyport.SLOW)
            if H2:
                self.wire = H2Wire(self.wire)

    def step(self, step):
        if isinstance(step, str):
            text = self.world.fill(step)
            m = re.match(r"([A-Z]+) \S+ HTTP/1", text)
            if m:
                self.methods += re.findall(r"(?m)^([A-Z]+) \S+ HTTP/1\.[01]\r?$", text)
            self.wire.send(text.encode("latin-1"))
        elif isinstance(step, (int, float)):
            self.collect(lambda: False, step)
        elif "repeat" in step:
            block, every = self.world.fill(step["repeat"]).encode("latin-1"), step.get("every", 0)
            times = step["times"]
            if H2 and not every:            # a frame for each byte would be an attack
                block, times = block * times, 1
            for i in range(times):
                self.wire.send(block)
                if every:
                    self.collect(lambda: False, every)
        elif "bytewise" in step:
            for c in self.world.fill(step["bytewise"]).encode("latin-1"):
                self.wire.send(bytes([c]))
                self.collect(lambda: False, step.get("every", 0.005))
        elif "until" in step:
            want = step["until"].encode("latin-1")
            assert self.collect(lambda: want in self.got, step.get("timeout", 10)), f"never got {want!r}"
        elif "answers" in step:
            assert self.collect(lambda: len(self.parsed(False)[1]) >= step["answers"]
                                and self.parsed(False)[1][-1].complete, step.get("timeout", 10)), "an answer is missing"
        elif "chunked" in step:
            body = self.world.fill(step["chunked"]).encode("latin-1")
            self.wire.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        elif "keep" in step:
            found = re.search(step["from"].encode("latin-1"), self.got)
            assert found, f"nothing to keep: {bytes(self.got[-500:])!r}"
            self.world.kept[step["keep"]] = found[1].decode("latin-1")
        elif "clock" in step:
            self.world.s.set_clock(step["clock"])
        elif "cli" in step:
            self.world.s.cli(*[self.world.fill(a) for a in step["cli"]])
        elif "policy" in step:
            self.world.s.policy(step["policy"]["name"], step["policy"]["source"])
        elif "server" in step:
            self.world.ups[step["server"]].reset(step)
        elif "unread" in step:                             # nothing is taken from the wire meanwhile
            time.sleep(step["unread"])
        elif "half_close" in step:
            self.wire.half_close()
        elif "close_notify" in step:
            self.wire.close_notify()
        elif "reset" in step:
            self.wire.reset()
        elif "close" in step:
            self.wire.close(clean=step["close"] != "ragged")
        else:
            raise AssertionError(f"unknown step {step}")

    def collect(self, enough, seconds):
        """Reads until enough() or the end of the connection or of the time; true if enough."""
        end = time.monotonic() + seconds * (sallyport.SLOW if seconds > 1 else 1)
        while not enough():
            left = end - time.monotonic()
            if left <= 0 or self.wire.eof:
                return enough()
            try:
                self.got += self.wire.recv(left)
            except TimeoutError:
                return enough()
        return True

    def parsed(self, ended=None):
        ended = self.wire.eof in ("clean", "ragged") if ended is None else ended
        return parse_responses(self.got, self.methods or ["GET"], ended)

    def run(self, want, closes, timeout):
        start = time.monotonic()
        try:
            self.open()
            for step in as_list(self.case.get("send")):
                self.step(step)
        except (ssl.SSLError, ConnectionError, BrokenPipeError) as e:
            if isinstance(e, ssl.SSLError):
                self.tls_error = str(e)
            elif self.connect_status in (None, 200) and self.wire.eof is None and self.wire.tls is not None \
                    and self.wire.tls.version() is None:
                self.tls_error = f"handshake: {e}"

        def done():
            final = self.parsed(False)[1]
            return want > 0 and len(final) >= want and (final[-1].complete or final[-1].by_close and bool(self.wire.eof))
        if self.tls_error is None and self.wire.eof != "ours":
            try:
                self.collect(done, timeout if want or closes else 1)
                self.seconds = time.monotonic() - start
                # a close must come; that none comes is only ever seen for a while
                self.collect(lambda: bool(self.wire.eof), 5 if closes else 0.3)
            except ssl.SSLError as e:
                self.tls_error = str(e)
        self.seconds = getattr(self, "seconds", time.monotonic() - start)
        self.eof = self.wire.eof
        if self.eof is None:
            self.wire.close()


def has(text, wanted, what, negate=False):
    for w in as_list(wanted):
        assert (w in text) != negate, f"{what} {'has' if negate else 'lacks'} {w!r}: {text[:600]!r}"


def check_server(world, name, want, what):
    up = world.ups[name]
    if want == "nothing":
        # the token endpoint is no upstream of the client's
        for other in [u for n, u in world.ups.items() if n != "auth"] if name == "main" else [up]:
            assert other.plaintext == 0, f"{what}: got {other.plaintext} bytes: {[r.head for r in other.requests]}"
        return
    check_keys(want, {"requests", "connections", "line", "header", "no_header", "head_has", "head_not", "body", "body_size",
                      "raw_body", "lines", "cut"}, what)
    if "requests" in want:
        assert len(up.requests) == want["requests"], f"{what}: {len(up.requests)} requests: {[r.line for r in up.requests]}"
    if "connections" in want:
        assert up.connections == want["connections"], f"{what}: {up.connections} connections"
    if "cut" in want:
        end = time.monotonic() + 5 * sallyport.SLOW
        while len(up.cut) < want["cut"] and time.monotonic() < end:
            time.sleep(0.02)
        assert len(up.cut) == want["cut"], f"{what}: {len(up.cut)} requests were cut"
    if set(want) <= {"requests", "connections", "cut"}:
        return
    assert up.requests, f"{what}: no request came"
    r = up.requests[-1]
    if "lines" in want:
        got = [q.line for q in up.requests]
        assert got == as_list(want["lines"]), f"{what}: {got}"
    assert r.line == want.get("line", r.line), f"{what}: {r.line!r}"
    for n, v in (want.get("header") or {}).items():
        got = [x for m, x in r.fields if m == n.lower()]
        assert got == as_list(v), f"{what}: {n} is {got}, not {as_list(v)}: {r.head!r}"
    for n in as_list(want.get("no_header")):
        assert r.get(n) is None, f"{what}: {n} is {r.get(n)!r}"
    head = r.head.decode("latin-1")
    has(head, want.get("head_has"), what)
    has(head, want.get("head_not"), what, True)
    if "body" in want:
        assert r.body.decode("latin-1") == want["body"], f"{what}: body {r.body[:200]!r}"
    if "raw_body" in want:
        assert r.raw_body.decode("latin-1") == want["raw_body"], f"{what}: body {r.raw_body[:200]!r}"
    if "body_size" in want:
        assert len(r.body) == want["body_size"], f"{what}: {len(r.body)} bytes of body"


def check_client(world, client, expect):
    interim, final, rest = client.parsed()
    shown = bytes(client.got[:500])
    if "connect_status" in expect:
        assert client.connect_status == expect["connect_status"], f"CONNECT: {client.connect_status} {shown!r}"
    if "tls_error" in expect:
        want = expect["tls_error"]
        assert client.tls_error, f"TLS did not fail; got {shown!r}"
        assert want is True or want.upper().replace(" ", "_") in client.tls_error.upper().replace(" ", "_"), client.tls_error
    else:
        assert client.tls_error is None, f"TLS: {client.tls_error}"
    if expect.get("no_answer"):
        assert not final and not interim, f"answered {shown!r}"
    statuses = as_list(expect.get("statuses")) or as_list(expect.get("status"))
    if statuses:
        got = [r.status for r in final]
        assert got == statuses, f"statuses {got}, not {statuses}: {shown!r} ({client.eof}, CONNECT {client.connect_status})"
        last = final[-1]
        assert "error" not in expect or last.get("x-sallyport-error") == expect["error"], \
            f"X-Sallyport-Error: {last.get('x-sallyport-error')}: {last.body[:300]!r}"
        if last.get("x-sallyport-error") and last.status >= 400:      # our own words; a push is refused with git's
            problem = json.loads(last.body) if last.body else {}
            assert not last.body or {"error", "message", "request"} <= set(problem), f"error body {problem}"
            text = last.body.decode("latin-1")
            for c in world.s.canaries:
                assert c not in text, f"the error shows a secret: {text}"
        for n, v in (expect.get("headers") or {}).items():
            got = last.all(n)
            assert got == as_list(v), f"{n}: {got}, not {as_list(v)}"
        for n in as_list(expect.get("no_headers")):
            assert last.get(n) is None, f"{n}: {last.get(n)}"
        text = last.body.decode("latin-1")
        assert "body" not in expect or text == expect["body"], f"body {text[:300]!r}"
        has(text, expect.get("body_has"), "the body")
        has(text, expect.get("body_not"), "the body", True)
        assert "body_size" not in expect or len(text) == expect["body_size"], f"{len(text)} bytes of body"
        if expect.get("truncated"):
            assert not last.complete or (last.by_close and client.eof != "clean"), \
                f"the client cannot tell that the answer was cut: {client.eof} {shown!r}"
        else:
            assert last.complete, f"the answer is cut: {shown!r}"
            assert not rest, f"bytes after the answer: {rest[:200]!r}"
    raw = client.got.decode("latin-1")
    has(raw, expect.get("raw_has"), "what came back")
    has(raw, expect.get("raw_not"), "what came back", True)
    if "interim" in expect:
        assert [r.status for r in interim] == as_list(expect["interim"]), [r.status for r in interim]
    if "closed" in expect:
        assert bool(client.eof) == expect["closed"], f"closed: {client.eof}; {shown!r}"
    if "within" in expect:
        assert client.seconds <= expect["within"] * sallyport.SLOW, f"took {client.seconds:.2f} s"
    if "after" in expect:
        assert client.seconds >= expect["after"], f"took only {client.seconds:.2f} s"


def run_case(world, case):
    expect = case.get("expect") or {}
    check_keys(case, {**CASE, **SETUP}, case.get("name"))
    check_keys(expect, EXPECT, case.get("name"))
    if H2:
        check_case(case)
    s = world.s
    assert s.alive(), f"the server is gone: {s.log()[-800:]}"
    s.set_clock(case.get("clock", 0))
    for name, up in world.ups.items():
        spec = {**up.spec}
        if name == "main":
            spec.update(case.get("upstream") or {})
        if name == "auth" and "token_endpoint" in case:
            spec["reply"] = [{"body": r} if isinstance(r, str) and r.startswith("{") else r
                             for r in as_list(case["token_endpoint"])]
        up.reset(spec)
    before = len(s.records()) if "log" in expect else 0
    if "refuse" in case:
        r = s.policy(case["refuse"]["name"], case["refuse"]["source"], check=False)
        assert r.returncode == 1, f"policy put ended with {r.returncode}: {r.stderr}"
        has(r.stderr, case["refuse"]["why"], "the refusal")
    want = expect.get("answers") or len(as_list(expect.get("statuses"))) or (1 if expect.get("status") else 0)
    steps = case.get("client") or [{}]
    clients = []
    for one in as_list(steps) if steps != [{}] else [{}]:
        for _ in range(one.get("times", case.get("times", 1))):
            clients.append(Client(world, {**case, **one}))
    failures = []

    def drive(c):
        try:
            c.run(want, expect.get("closed") is True, case.get("timeout", 15))
            c.expect = {**expect, **(c.case.get("expect") or {})}
            check_client(world, c, c.expect)
        except NotTheSame as e:
            failures.append(e)
            c.wire.reset()
        except Exception as e:      # whatever went wrong fails this case alone
            failures.append(e)
    if len(clients) == 1:
        drive(clients[0])
    else:
        threads = [threading.Thread(target=drive, args=(c,)) for c in clients]
        for t in threads:
            t.start()
        for t in threads:
            t.join(120)
    if failures:
        raise next((e for e in failures if not isinstance(e, NotTheSame)), failures[0])
    if case.get("wait"):
        time.sleep(case["wait"])
    if "upstream" in expect:
        check_server(world, "main", expect["upstream"], "upstream")
    for name, w in (expect.get("servers") or {}).items():
        check_server(world, name, w, name)
    if "token_requests" in expect:
        check_server(world, "auth", {"requests": expect["token_requests"]}, "the token endpoint")
    if "log" in expect:
        s.wait_record(expect["log"], before)
    for args, text in (expect.get("cli") or {}).items():
        r = s.cli(*args.split(), check=False)
        has(r.stdout + r.stderr, text, args)
    has(s.log(), expect.get("log_never"), "the server's log", True)
    s.canaries += [c for c in as_list(case.get("canaries")) if c not in s.canaries]
    assert s.alive(), f"the server died: {s.log()[-800:]}"


def verdict(what, name, why=None):
    line = f"{what} {name}" + (f" - {why}" if why else "")
    print(line.replace("\n", "\\n").replace("\r", "\\r"), flush=True)


def explain(e):
    text = str(e) or type(e).__name__
    if not isinstance(e, AssertionError):
        import traceback
        last = traceback.extract_tb(e.__traceback__)[-1]
        text = f"{type(e).__name__}: {text} ({pathlib.Path(last.filename).name}:{last.lineno})"
    return text


def finish(world, label):
    """The end of every server: canaries, sanitizers, and that it is there still."""
    try:
        found = world.s.leaks() if world.s.alive() else []
        problem = world.close() or ("; ".join(found) if found else None)
    except Exception as e:
        problem = explain(e)
        world.close()
    if problem:
        verdict("not ok", f"{label}: nothing leaks, and the server lives", problem)
    else:
        world.s.clean()
    return problem


def main(binary, path, words):
    dump = subprocess.run([binary, "lua", str(pathlib.Path(__file__).parent / "dump.lua"), path],
                          capture_output=True, text=True, timeout=60)
    label = pathlib.Path(path).stem
    if dump.returncode != 0:
        return verdict("not ok", label, dump.stderr.strip())
    value = json.loads(dump.stdout)
    shared = value.get("shared") if isinstance(value, dict) else None
    cases = value["cases"] if shared is not None else as_list(value)
    world, ran = None, 0
    for case in cases:
        name = f"{label}: {case.get('name', 'it')}"
        if words and not any(w in name for w in words):
            continue
        if case.get("skip"):
            verdict("skip", name, case["skip"])
            continue
        own = shared is None or set(case) & set(SETUP)
        try:
            if own:
                w = World(binary, {**(shared or {}), **{k: v for k, v in case.items() if k in SETUP}})
            else:
                if world is not None and not world.s.alive():
                    world.close()
                    world = None
                w = world = world or World(binary, shared)
        except Exception as e:
            verdict("not ok", name, "setting up: " + explain(e))
            if not own:
                break
            continue
        try:
            run_case(w, case)
            ran += 1
            verdict("ok", name)
        except NotTheSame:
            pass
        except Exception as e:
            verdict("not ok", name, explain(e))
        if own:
            finish(w, name)
    if world is not None and not finish(world, label):
        verdict("ok", f"{label}: nothing leaks, and the server lives")
    if H2 and not words:
        verdict("ok" if ran else "not ok", f"{label}: {ran} of {len(cases)} cases mean the same over HTTP/2")


def print_keys():
    for title, table in (("SETUP", SETUP), ("CASE", CASE), ("STEPS", STEPS), ("EXPECT", EXPECT)):
        print(title)
        for key, text in table.items():
            print(f"  {key:15} {text}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--keys"]:
        sys.exit(print_keys())
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
