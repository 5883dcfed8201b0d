"""Refresh tokens that rotate, against a server that spends each once and counts: faults, clocks, and death at every step."""
import base64
import hashlib
import http.server
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import peers
import sallyport
from oauth_test import Command, show
from real import wait
from sallyport import moment


# -- a server that does as it is told, and counts

class TokenServer:
    """A token endpoint with rotation: every refresh token works once. `fault(n, form)` may answer for it: (status, headers, body) or a
    number of seconds to wait first; `after` is called once a token is spent and before the answer goes out."""

    def __init__(self, t, delay=0.0):
        self.delay, self.fault, self.after, self.more = delay, None, None, {}
        self.lock, self.live, self.count, self.asked = threading.Lock(), None, 0, []
        self.presented, self.open, self.overlaps, self.connections = {}, {}, [], 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_POST(self):
                form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["content-length"])).decode()))
                token = form.get("refresh_token")
                with outer.lock:
                    if outer.open.get(token) and token:
                        outer.overlaps.append(token)
                    outer.open[token] = outer.open.get(token, 0) + 1
                try:
                    status, headers, body = outer.answer(form)
                    self.send_response(status)
                    for name, value in {"content-type": "application/json", "content-length": str(len(body)), **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body.encode())
                except OSError:
                    pass
                finally:
                    with outer.lock:
                        outer.open[token] -= 1
                self.close_connection = True

            def do_GET(self):
                if self.path != "/":
                    outer.asked.append({"grant_type": "GET"})
                self.send_response(404)
                self.end_headers()
                self.close_connection = True

        class Http(http.server.ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 128

            def process_request(self, *args):
                with outer.lock:
                    outer.connections += 1
                super().process_request(*args)

            def shutdown_request(self, request):
                super().shutdown_request(request)
                with outer.lock:
                    outer.connections -= 1

            def handle_error(self, request, client_address):
                pass
        self.http = Http(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def quiet(self):
        """Waits until whatever was sent before has been judged: accepted in order, so a connection of ours comes last."""
        try:
            urllib.request.urlopen(self.url + "/", timeout=5).read()
        except urllib.error.HTTPError:
            pass
        wait(lambda: self.connections == 0, 5, "the end of the dead one's request")

    def refreshes(self):
        return [f for f in self.asked if f.get("grant_type") == "refresh_token"]

    def answer(self, form):
        with self.lock:
            self.asked.append(form)
            n = len(self.asked)
        told = self.fault(n, form) if self.fault else None
        if isinstance(told, tuple):
            return told
        time.sleep(told if isinstance(told, (int, float)) else self.delay)
        with self.lock:
            token = form.get("refresh_token")
            if form["grant_type"] == "refresh_token":
                self.presented[token] = self.presented.get(token, 0) + 1
                if token != self.live:
                    return 400, {}, '{"error":"invalid_grant","error_description":"canary of the server"}'
            elif form.get("code_verifier") is None or form.get("code") != "good":
                return 400, {}, '{"error":"invalid_grant"}'
            self.count += 1
            self.live = f"canary-refresh-{self.count}"
            body = {"access_token": f"canary-access-{self.count}", "token_type": "bearer", "expires_in": 3600, "refresh_token": self.live,
                    **self.more}
        if self.after:
            self.after()
        return 200, {}, json.dumps({k: v for k, v in body.items() if v is not None})

    def fields(self, **more):
        return {"authorization_url": "https://consent.test/auth", "token_url": self.url + "/token", "client_id": "id", **more}


def scripted(t, workers=1, serve=True, server=None, **more):
    s, up = t.proxy(workers=workers, serve=False)
    server = server or TokenServer(t)
    s.credential({"name": "acc", "type": "oauth_authorization_code", "host": "api.test", "address": "127.0.0.0/8", "fields": {**server.fields(**more), "scrub": "off"}})   # its upstream repeats each request
    if serve:
        s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    return s, up, server


def grant(s, code="good", exit=0):
    """connect, with a person who pastes."""
    command = Command(s, "connect", "acc", "--code-from-terminal", stdin=True)
    q = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(command.url()).query))
    command.p.stdin.write(f"http://127.0.0.1:7082/callback?code={code}&state={q['state']}\n")
    command.p.stdin.flush()
    return command.end(exit)


def carried(s, up):
    r = s.request()
    assert r.status == 200, (r.status, r.body)
    return up.requests[-1].get("authorization")


def test_pkce(t):
    """what goes to the token endpoint is the verifier of the challenge that went to the consent (RFC 7636)"""
    s, up, server = scripted(t, serve=False)
    command = Command(s, "connect", "acc", "--code-from-terminal", stdin=True)
    q = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(command.url()).query))
    command.p.stdin.write(f"http://127.0.0.1:7082/callback?code=good&state={q['state']}\n")
    command.p.stdin.flush()
    command.end()
    form = server.asked[-1]
    want = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
    assert want == q["code_challenge"] and form["redirect_uri"] == q["redirect_uri"] == "http://127.0.0.1:7082/callback"


def test_callback_waits(t):
    """a browser that closed its half while its code is exchanged costs no processor time, and is answered"""
    s, up, server = scripted(t, serve=False)
    server.after = lambda: time.sleep(2)
    command = Command(s, "connect", "acc", "--port", "0", "--no-browser")
    q = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(command.url()).query))
    back = urllib.parse.urlsplit(q["redirect_uri"])
    with socket.create_connection((back.hostname, back.port), 10) as c:
        c.sendall(f"GET {back.path}?code=good&state={q['state']} HTTP/1.1\r\nHost: {back.netloc}\r\n\r\n".encode())
        c.shutdown(socket.SHUT_WR)
        wait(lambda: server.asked, 5, "the exchange")
        time.sleep(1)
        ticks = sum(map(int, open(f"/proc/{command.p.pid}/stat").read().rsplit(")", 1)[1].split()[11:13]))
        assert ticks < 0.7 * os.sysconf("SC_CLK_TCK"), f"{ticks} ticks of waiting"
        assert c.recv(100).startswith(b"HTTP/1.1 200")
    command.end()


def test_faulty_server_at_connect(t):
    """a server that is down, in trouble, redirects or answers nonsense: connect says why, and the old grant is as it was"""
    s, up, server = scripted(t)
    grant(s)
    first = carried(s, up)
    other = TokenServer(t)
    for told, says in (((500, {}, "oops canary"), "out of order"), ((429, {"retry-after": "7"}, "{}"), "out of order"),
                       ((200, {}, '{"error":"invalid_request","error_description":"canary"}'), "invalid_request"),
                       ((200, {}, '{"access_token":5}'), "token endpoint"), ((200, {}, "canary no json"), "malformed"),
                       ((200, {}, "{}"), "no access_token"), ((200, {}, '{"access_token":"canary-x","token_type":"mac"}'), "token_type"),
                       ((307, {"location": other.url + "/token"}, ""), "redirects"), ((400, {}, '{"error":"canary_x"}'), "error of its own")):
        server.fault = lambda n, form, told=told: told
        text = grant(s, exit=1)
        assert says in text and "canary" not in text, (says, text)
    server.fault = None
    assert "invalid_grant" in grant(s, code="used", exit=1)
    assert not other.asked and carried(s, up) == first
    s.cli("credential", "set", "acc", "token_url=http://127.0.0.1:1/token")
    assert "cannot be reached" in grant(s, exit=1)
    s.cli("credential", "set", "acc", f"token_url={server.url}/token")
    assert carried(s, up) == first, "the grant belongs to client and token address, and comes back with them"


def test_faulty_server_at_refresh(t):
    """refresh: 500, 429 with Retry-After, 200 with error, a redirect: what is still valid is served, then 503 or 502"""
    s, up, server = scripted(t)
    grant(s)
    first, clock, boot = carried(s, up), 0, 0

    def at(seconds):
        nonlocal clock, boot
        clock, boot = clock + seconds, boot + seconds * 1000
        s.set_clock(clock, boot)
    at(3400)
    server.fault = lambda n, form: (500, {}, "")
    assert carried(s, up) == first, "five minutes before its end it is renewed; while it is valid it is served"
    wait(server.refreshes, 5, "the refresh")
    at(300)
    r = s.request()
    assert r.status == 503 and r.get("x-sallyport-error") == "injection_unavailable" and int(r.get("retry-after")) >= 1, r.body
    at(120)
    server.fault = lambda n, form: (429, {"retry-after": "33"}, "{}")
    r = s.request()
    assert r.status == 503 and 30 <= int(r.get("retry-after")) <= 33, r.get("retry-after")
    before = len(server.refreshes())
    assert s.request().status == 503 and len(server.refreshes()) == before, "Retry-After is obeyed"
    at(40)
    server.fault = lambda n, form: (307, {"location": "http://127.0.0.1:1/"}, "")
    assert s.request().get("x-sallyport-error") == "oauth_refresh_failed"
    at(120)
    server.fault, server.after = None, lambda: time.sleep(12)
    began = time.monotonic()
    r = s.request(timeout=20)
    assert r.status == 503 and time.monotonic() - began < 15 * sallyport.SLOW
    server.after = None
    at(120)
    r = s.request()                      # the slow answer had spent the token, and never came
    assert r.status == 502 and b"lost in flight" in r.body and b"connect acc" in r.body, r.body
    out = s.cli("credential", "show", "acc").stdout
    assert "lost_in_flight" in out and "connect it anew" in s.cli("credential", "list").stdout, out
    server.fault = None
    grant(s)
    assert carried(s, up)
    at(4000)
    server.fault = lambda n, form: (200, {}, '{"error":"invalid_grant"}')
    r = s.request()
    assert r.status == 502 and b"invalid_grant" in r.body and b"connect acc" in r.body, r.body
    before = len(server.asked)
    assert s.request().status == 502 and len(server.asked) == before, "final: not asked again"


def test_expires_in(t):
    """expires_in missing, quoted, absurd, negative or no number"""
    s, up, server = scripted(t)
    for given, life in ((None, 3600), ("60", 60), (10 ** 12, 30 * 86400), (-5, 3600), ("soon", 3600), (0, 3600), (60.9, 60), (True, 3600)):
        server.more = {"expires_in": given}
        grant(s)
        token = show(s)["token"]
        lasts = moment(token["expires_at"]) - moment(token["obtained_at"])      # obtained before it was asked for: a second may have passed
        assert life <= lasts <= life + 2, (given, token)
    server.more = {"expires_in": None, "refresh_token": None}
    grant(s)
    assert "until the API refuses it" in s.cli("credential", "show", "acc").stdout
    server.more = {"expires_in": 60 * 86400, "refresh_token": None}
    grant(s)
    token = show(s)["token"]
    assert moment(token["expires_at"]) - moment(token["obtained_at"]) == 60 * 86400, "nobody can renew it, so it is used to its end"


def test_granted_scopes(t):
    """scopes that the server granted: connect says what is missing, show tells them where they differ; absent, the asked ones count"""
    s, up, server = scripted(t, scopes="read write:all https://api.test/auth/mail.full offline_access")

    def shown():
        out = s.cli("credential", "show", "acc").stdout
        return show(s)["token"].get("granted"), [x.split(None, 1)[1] for x in out.splitlines() if x.startswith("granted")]
    assert "granted" not in grant(s) and shown() == (None, [])
    server.more = {"scope": "write:all Read mail.full"}
    assert "granted" not in grant(s) and shown()[1] == [], "the same in other words"
    server.more = {"scope": 'read,extra "canary" \u00e9'}          # commas as GitHub has them; what is no scope is not kept
    text = grant(s)
    assert "not granted, by the server's word: write:all https://api.test/auth/mail.full\n" in text, text
    assert shown() == (["read", "extra"], ["read extra"])
    s.set_clock(4000)
    server.more = {}
    carried(s, up)
    assert shown()[0] == ["read", "extra"], "a refresh that says nothing grants what there was"
    s.set_clock(8000)
    server.more = {"scope": ""}
    carried(s, up)
    assert shown() == ([], ["no scope"])
    server.more = {"scope": ["read"], "refresh_token": None}
    text = grant(s)
    assert "no refresh token" in text and shown() == (None, []), ("a list is no answer of RFC 6749", text, shown())
    server.more = {"scope": "read write:all https://api.test/auth/mail.full", "refresh_token": None}
    text = grant(s)
    assert "not granted, by the server's word: offline_access\n" in text, text


def test_slack_user(t):
    """the preset slack-user: user_scope in the consent, the user's token and not the bot's, renewed ones at the top"""
    s, up = t.proxy(serve=False)
    server = TokenServer(t)
    secret = s.dir / "secret"
    secret.write_text("canary-secret")
    s.cli("credential", "add", "acc", "--preset", "slack-user", "--host", "api.test", "--address", "127.0.0.0/8", f"token_url={server.url}/token",
          "client_id=id", f"client_secret=@{secret}", "scopes=search:read users:read", "--path", "/")
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    command = Command(s, "connect", "acc", "--code-from-terminal", stdin=True)
    url = urllib.parse.urlsplit(command.url())
    q = dict(urllib.parse.parse_qsl(url.query))
    assert url.netloc == "slack.com" and q["user_scope"] == "search:read,users:read" and "scope" not in q, q
    command.p.kill()
    command.p.wait()
    bot = {"ok": True, "access_token": "canary-bot", "token_type": "bot", "refresh_token": "canary-bot-refresh", "expires_in": 43200}
    user = {"id": "U1", "access_token": "canary-user-1", "token_type": "user", "refresh_token": "canary-user-refresh-1", "expires_in": 43200}
    for body, says in (({**bot, "authed_user": {"id": "U1"}}, "no access_token"), ({**bot, "authed_user": None}, "no access_token"), (bot, "no access_token"),
                       ({"ok": False, "error": "invalid_code"}, "invalid_grant"), ({"ok": False, "error": "bad_client_secret"}, "invalid_client"),
                       ({"ok": False, "error": "canary"}, "error of its own")):
        server.fault = lambda n, form, body=body: (200, {}, json.dumps(body))
        text = grant(s, exit=1)
        assert says in text and "canary" not in text, (says, text)
    server.fault = lambda n, form: (200, {}, json.dumps({**bot, "authed_user": {**user, "scope": "search:read"}}))
    assert "not granted, by the server's word: users:read" in grant(s)
    token = show(s)["token"]
    assert carried(s, up) == "Bearer canary-user-1" and moment(token["expires_at"]) - moment(token["obtained_at"]) == 43200
    s.set_clock(43000)
    server.fault = lambda n, form: (200, {}, json.dumps({**user, "access_token": "canary-user-2", "refresh_token": "canary-user-refresh-2"}))
    wait(lambda: carried(s, up) == "Bearer canary-user-2", 5, "the renewal")
    assert server.refreshes()[-1]["refresh_token"] == "canary-user-refresh-1"
    s.set_clock(90000)
    server.fault = lambda n, form: (200, {}, json.dumps({"ok": False, "error": "invalid_refresh_token"}))
    r = s.request()
    assert r.status == 502 and b"invalid_grant" in r.body and b"connect acc" in r.body, r.body
    assert server.refreshes()[-1]["refresh_token"] == "canary-user-refresh-2"


def test_pasted_twice_at_once(t):
    """two commands paste one refresh token: the later waits for the earlier, and does not spend it again"""
    s, up, server = scripted(t)
    grant(s)
    pasted, waits, go = s.dir / "pasted", threading.Event(), threading.Event()
    pasted.write_text("canary-pasted")
    server.live = "canary-pasted"

    def after():
        waits.set()
        go.wait(8)
    server.after = after
    first = Command(s, "credential", "set", "acc", f"refresh_token=@{pasted}")
    assert waits.wait(30)
    second = Command(s, "credential", "set", "acc", f"refresh_token=@{pasted}")
    time.sleep(1)                    # it waits for the lease by now; later, it finds the token in the record
    go.set()
    first.end()
    assert "pasted before" in second.end(1)
    assert server.presented["canary-pasted"] == 1 and carried(s, up) == f"Bearer canary-access-{server.count}"


def test_connection_trouble(t):
    """no connection to the token endpoint: connect, show, the caller and the log say which kind of trouble it is"""
    t.need("openssl")
    kinds = {"expired": "certificate expired", "wrong_name": "certificate name mismatch", "unknown_root": "untrusted certificate (unknown issuer; missing intermediate?)",
             "self_signed": "untrusted certificate (self-signed)", "refused": "connection refused"}
    s, up, server = scripted(t, serve=False)
    flags, made, pasted = ["--upstream-ca", sallyport.certs() / "root.pem"], [], s.dir / "pasted"
    for i, kind in enumerate(kinds):
        spec = {"refused": {"plain": True, "refuse": True}}.get(kind, {"tls": kind})
        made.append(peers.Upstream(spec, sallyport.certs()))
        flags += ["--connect-to", f"auth.test:{4000 + i}:127.0.0.1:{made[-1].port}"]
        s.credential({"name": kind, "type": "oauth_client_credentials", "host": f"{kind.replace('_', '-')}.test", "address": "127.0.0.0/8",
                      "fields": {"token_url": f"https://auth.test:{4000 + i}/token", "client_id": "id"}, "secrets": {"client_secret": "canary-secret"}})
    s.serve(*flags)
    pasted.write_text("canary-never-issued")
    for i, (kind, words) in enumerate(kinds.items()):
        s.cli("credential", "set", "acc", f"token_url=https://auth.test:{4000 + i}/token")
        text = grant(s, exit=1)
        assert words in text, (words, text)
        r = s.cli("credential", "set", "acc", f"refresh_token=@{pasted}", check=False)
        assert r.returncode == 1 and words in r.stderr and "canary" not in r.stderr, (words, r.stderr)
        r = s.request(host=f"{kind.replace('_', '-')}.test")
        assert r.status in (502, 503) and words in json.loads(r.body)["message"], (words, r.status, r.body)
        assert show(s, kind)["token"]["error_detail"] == words and words in s.cli("credential", "show", kind).stdout
        assert re.search(rf'ev=refresh credential={kind} err=(tls|unreachable) why="{re.escape(words)}"', s.log()), s.log()
        r = s.cli("credential", "test", kind, f"https://{kind.replace('_', '-')}.test/", check=False)
        assert r.returncode == 1 and words in r.stdout + r.stderr, r.stderr
    [x.stop() for x in made]


def test_clock_off(t):
    """a clock that was an hour off, either way, when the tokens came: they are renewed once it is right"""
    s, up, server = scripted(t)
    for off in (3600, -3600):
        s.set_clock(off)
        grant(s)
        first = carried(s, up)
        s.set_clock(0)
        wait(lambda: carried(s, up) != first, 5, "the renewal")
    assert not server.overlaps and all(n == 1 for n in server.presented.values()), server.presented


def test_one_rotation_for_all(t):
    """100 requests over all workers on one expired token: one refresh token is spent, once"""
    s, up, server = scripted(t, workers=2)
    s.agent("b")
    grant(s)
    s.set_clock(4000)
    server.delay, statuses = 0.4, []
    threads = [threading.Thread(target=lambda i=i: statuses.append(s.request(auth=s.auth(name="ab"[i % 2])).status)) for i in range(100)]
    [x.start() for x in threads]
    [x.join(60) for x in threads]
    assert statuses == [200] * 100, statuses
    assert len(server.refreshes()) == 1 and server.presented == {"canary-refresh-1": 1}, server.presented


def test_rotation_killed(t):
    """kill -9 at every step of a rotation, hundreds of times: never lost once the answer came, never spent twice at a time, always named"""
    rounds = 200 if sallyport.SLOW == 1 else 40
    s, up, server = scripted(t, serve=False)
    server.more = {"expires_in": 20}     # so that hundreds of lives do not outlast our certificates
    grant(s)
    clock = boot = 0

    def later(seconds=30, lease=21000):
        nonlocal clock, boot
        clock, boot = clock + seconds, boot + lease
        s.set_clock(clock, boot)

    def use():
        """A command that needs a token; the API itself is not there."""
        return subprocess.Popen([s.binary, "credential", "test", "acc", "https://api.test/"], env=s.env, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    s.cli("set", "connect-to", "api.test:443:127.0.0.1:1")
    lives = []                           # the shortest of three: one that a busy machine held up would let most kills come too late
    for _ in range(3):
        later()
        began = time.monotonic()
        use().communicate()
        lives.append(time.monotonic() - began)
    whole = min(lives)
    lost = killed = unspent = stored = 0
    for i in range(rounds):
        later()
        before = server.live
        spent, dead, step = threading.Event(), threading.Event(), i % 8

        def after(spent=spent, dead=dead, held=step == 3):
            spent.set()
            if held:
                dead.wait(30)            # the answer goes out to a process that is no more
        server.after = after
        p = use()
        if step == 3 or step == 7:       # just when the server has spent the token: the hardest place
            assert spent.wait(30), i
            time.sleep(0 if step == 3 else random.uniform(0, 0.004))
        elif step == 4:                  # it comes to its end
            p.wait(30)
        elif step:                       # anywhere; and in round 0, 8, … before it has done anything
            time.sleep(random.uniform(0, whole))
        p.kill()
        p.communicate()
        dead.set()
        killed += p.returncode == -9
        server.after = None
        server.quiet()
        was_spent = server.live != before
        later(0)                         # the lease is over; the token, if it is new, is not
        p = use()
        _, err = p.communicate(timeout=40)
        token = show(s)["token"]
        if token.get("last_error"):
            assert token["last_error"] == "lost_in_flight" and was_spent and "lost in flight" in err, (i, token, was_spent, err)
            assert server.presented[before] == 2, (i, server.presented[before])
            lost += 1
            grant(s)
        else:
            assert token["valid"], (i, token, err)
            # An unspent token was spent by the second command; a spent one was stored by the first, and not asked for again.
            assert server.presented.get(before, 0) == 1, (i, was_spent, server.presented.get(before))
            stored, unspent = stored + was_spent, unspent + (not was_spent)
        assert not server.overlaps, f"round {i}: a refresh token was sent while its first request could still be answered"
    print(f"# {rounds} rounds: {killed} killed, {unspent} before the token was spent, {stored} after its answer was stored, {lost} named lost")
    assert killed > rounds // 2 and lost >= rounds // 8 and unspent and stored >= rounds // 8, (killed, lost, unspent, stored)
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    assert carried(s, up)


def test_workers_killed(t):
    """the same with workers that are killed under requests"""
    s, up, server = scripted(t, workers=2)
    s.may_die = "yes"
    grant(s)
    clock = boot = 0
    for i in range(12 if sallyport.SLOW == 1 else 4):
        clock, boot = clock + 4000, boot + 21000
        s.set_clock(clock, boot)
        before, spent = server.live, threading.Event()
        server.after = spent.set

        def ask():
            try:
                s.request(timeout=5)
            except Exception:
                pass
        caller = threading.Thread(target=ask)
        caller.start()
        if i % 2:
            spent.wait(5)
        else:
            time.sleep(random.uniform(0, 0.02))
        for pid in s.worker_pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        caller.join(20)
        server.after = None
        server.quiet()
        boot += 21000
        s.set_clock(clock, boot)

        def answered():
            try:
                r = s.request(timeout=25)
                return r if r.status in (200, 502) else None
            except (OSError, ConnectionError, AssertionError):
                return None
        r = wait(answered, 20, "an answer")
        if r.status == 502:
            assert b"lost in flight" in r.body and server.live != before, r.body
            grant(s)
        assert not server.overlaps
    assert carried(s, up)
