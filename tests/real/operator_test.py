"""The page that a server has (`serve --admin`): operators sign in, over TLS beyond this machine; a process of its own, which the server keeps."""
import html
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import urllib.parse

import certs as certs_module
import sallyport
from admin_test import HERE, NODE, NPM, Admin, Page
from authorization_test import Browser, there
from real import wait
from servers import free_port

PASSWORD = "a long operator word"


class Desk(Admin):
    """A browser at the server's page."""

    def __init__(self, s, port, origin=None, connect=None):
        self.s, self.cookie, self.base = s, None, None
        self.at = f"127.0.0.1:{port}"
        self.origin = origin or "http://" + self.at

    def raw(self, method, path, body=None, length=None, **headers):
        return super().raw(method, path, body, length, **headers)

    def form(self, path, headers=None, **fields):
        return self.raw("POST", path, urllib.parse.urlencode(fields), **{"Origin": self.origin, "Sec_Fetch_Site": "same-origin", **(headers or {})})

    def set_password(self, link, **more):
        link = urllib.parse.urlsplit(link)
        status, _, text = self.raw("GET", link.path + "?" + link.query)
        assert status == 200 and "Set a password" in text, text
        return self.form("/login", link=urllib.parse.parse_qs(link.query)["link"][0], password=PASSWORD, again=PASSWORD, **more)

    def sign_in(self, user, password=PASSWORD, **more):
        status, headers, text = self.form("/login", user=user, password=password, **more)
        if status == 200 and headers["Set-Cookie"]:
            self.cookie, self.base = re.match(r"(sallyport=[\w-]{43}); Path=(/s/[\w-]{43}/); HttpOnly; SameSite=Strict$", headers["Set-Cookie"]).groups()
        return status


def page_pid(s):
    out = subprocess.run(["pgrep", "-P", str(s.process.pid), "-f", "admin --served"], capture_output=True, text=True).stdout.split()
    return int(out[0]) if out else None


def world(t, *flags):
    port = free_port()
    s, up = t.proxy(workers=1, serve=False)
    s.cli("set", "admin", f"127.0.0.1:{port}")
    link = s.cli("user", "add", "ada", "--operator").stdout.strip()
    assert link.startswith(f"http://127.0.0.1:{port}/login?link="), link
    s.canaries += [PASSWORD, link.split(".")[-1]]
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}", *flags)
    return s, up, Desk(s, port), link


def test_operators(t):
    """an operator sets a password and signs in, each with a session of their own; nobody else does, whatever they are in a tenant or at the door; what they change bears their name; whatever changes them ends it"""
    s, up, a, link = world(t)
    wait(lambda: a.raw("GET", "/login")[0] == 200, 15, "the page")
    assert f" page=127.0.0.1:{a.at.split(':')[1]}" in s.log()
    s.cli("set", "public-url", "https://box.test")
    s.cli("tenant", "add", "acme")
    for name, flags in (("bob", ["--tenant", "acme=admin", "--approve"]), ("eve", [])):
        s.cli("user", "add", name, *flags)
    other = s.cli("user", "set", "bob", "--link").stdout.strip()
    assert a.raw("GET", "/login?" + urllib.parse.urlsplit(other).query)[0] == 400, "a link of somebody who is none"
    assert a.form("/login", link=link.split("link=")[1], password=PASSWORD, again="another")[0] == 400
    assert a.form("/login", link=link.split("link=")[1], password="short", again="short")[0] == 400
    status, headers, text = a.set_password(link)
    assert status == 200 and "The password is set" in text and "Set-Cookie" not in headers, text
    assert a.form("/login", link=link.split("link=")[1], password=PASSWORD, again=PASSWORD)[0] == 400, "a link is good once"
    for user, password in (("ada", "wrong" * 3), ("bob", PASSWORD), ("eve", ""), ("nobody", PASSWORD), ("", "")):
        status, headers, text = a.form("/login", user=user, password=password)
        assert status == 403 and "not right" in text and "Set-Cookie" not in headers, (user, status, text)
    for head in ({"Origin": None}, {"Origin": "null", "Sec_Fetch_Site": None}, {"Origin": "null", "Sec_Fetch_Site": "cross-site"}, {"Origin": "https://evil.test"}, {"Origin": "http://127.0.0.1:1"}, {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}):
        assert a.form("/login", head, user="ada", password=PASSWORD)[0] == 403, head
    for host in ("localhost:" + a.at.split(":")[1], "evil.test", "127.0.0.1", "127.0.0.1:1"):
        assert a.raw("GET", "/login", Host=host)[0] == 421, host
    assert a.raw("GET", "/start?code=x")[0] == 404 and a.form("/start", code="x" * 43)[0] == 404, "there is no code here"
    assert a.sign_in("ada") == 200
    b = Desk(s, a.at.split(":")[1])
    assert b.sign_in("ADA") == 200 and b.cookie != a.cookie and b.base != a.base
    assert a.raw("GET", a.base, Cookie=b.cookie)[0] == 404 and a.raw("GET", b.base, Cookie=a.cookie)[0] == 404, "path and cookie together"
    fixed = a.raw("GET", "/login", Cookie="sallyport=" + "x" * 43)
    assert "Set-Cookie" not in fixed[1]
    # what somebody planted before the sign-in is no session behind it, nor does it become one
    for planted in ("sallyport=" + "x" * 43, b.cookie):
        status, headers, _ = a.form("/login", {"Cookie": planted}, user="ada", password=PASSWORD)
        new = re.match(r"(sallyport=[\w-]{43}); Path=(/s/[\w-]{43}/);", headers["Set-Cookie"])
        assert status == 200 and new[1] not in (planted, a.cookie) and new[2] not in (a.base, b.base) and a.raw("GET", new[2], Cookie=planted)[0] == 404
        assert a.raw("GET", new[2], Cookie=new[1])[0] == 200 and a.raw("POST", new[2] + "out", urllib.parse.urlencode(Page(a.raw("GET", new[2], Cookie=new[1])[2]).forms[0]["fields"]), Cookie=new[1], Origin=a.origin)[0] == 200
    a.get("do/agent/add")
    a.submit(a1="helper")
    assert re.search(r"sp_agt_[\w-]{43}", a.html)
    change = [json.loads(x) for x in s.cli("log", "--json", "--kind", "change").stdout.splitlines()][-1]
    assert (change["by"], change["door"], change["command"], change["client"]) == ("ada", "page", "agent add", "127.0.0.1"), change
    a.get()
    a.submit(form=next(f for f in a.page.forms if f["action"].endswith("/out")))
    assert "Signed out" in a.page.text and a.raw("GET", a.base, Cookie=a.cookie)[0] == 404 and b.get().text and b.status == 200, "the other's goes on"
    for change in (["--no-operator"], ["--operator"]):
        s.cli("user", "set", "ada", *change)
        b.get()
        assert b.status == 404, "it ends with any change of the person"
        assert b.sign_in("ada") == (403 if change == ["--no-operator"] else 200)
    s.cli("user", "disable", "ada")
    b.get()
    assert b.status == 404 and b.sign_in("ada") == 403
    s.cli("user", "set", "ada", "--enable")
    for _ in range(24):         # guesses are counted by quarters of an hour, one of which may begin here
        status = a.form("/login", user="ada", password="guess" * 3)[0]
        if status == 429:
            break
    assert status == 429 and a.sign_in("ada") == 429, "ten guesses"


def test_two(t):
    """two operators who change one thing at once: the second form is told, changes nothing, and goes through when it is sent again; credentials, agents, bundles, rules, people and policies"""
    s, up, a, link = world(t)
    wait(lambda: a.raw("GET", "/login")[0] == 200, 15, "the page")
    a.set_password(link)
    b = Desk(s, a.at.split(":")[1])
    assert a.sign_in("ada") == 200 and b.sign_in("ada") == 200
    s.credential({"name": "api", "type": "api_key", "host": "api.test", "secrets": {"key": "canary-two-0123456789"}})
    s.cli("rule", "add", "slow", "--type", "rate", "requests=900", "window=60")
    s.cli("user", "add", "bob")

    def both(at, **fields):
        one, two = fields.items()
        for x in (a, b):
            x.get(at)
        form = next(f for f in b.page.forms if "/do/" in f["action"] or "/policies/" in f["action"])
        a.submit(**dict([one]))
        assert a.status == 200, (at, a.page.text)
        b.submit(form=form, **dict([two]))
        assert b.status == 409 or "another version" in b.page.text, (at, b.status, b.page.text)
        assert "Somebody" in b.page.text
        return form
    both("do/credential/set?a1=api", f__prefix="ada ", o__method="GET")
    now = json.loads(s.cli("credential", "show", "api", "--json").stdout)
    assert now["fields"]["prefix"] == "ada " and not now.get("methods"), now
    b.submit(f__prefix="ada ", o__method="GET")
    assert b.status == 200 and json.loads(s.cli("credential", "show", "api", "--json").stdout)["methods"] == ["GET"], b.page.text
    both("do/rule/set?a1=slow", f__requests="800", f__window="30")
    assert json.loads(s.cli("rule", "show", "slow", "--json").stdout)["fields"] | {"requests": 800, "window": "60"} == {"requests": 800, "window": "60"} or "800" in s.cli("rule", "show", "slow").stdout
    both("do/user/set?a1=bob", o__totp="on", o__approve="on")
    assert "approve" not in json.loads(s.cli("user", "list", "--json").stdout)[1]
    source = a.get("policies/rate").forms[-1]["fields"]["source"]
    for x in (a, b):
        x.get("policies/rate")
    a.submit(form=a.page.forms[-1], source=source.replace("-- ", "-- adas own ", 1), keep="on")
    b.submit(form=b.page.forms[-1], source=source.replace("-- ", "-- bobs own ", 1), keep="on")
    kept = s.cli("policy", "show", "rate").stdout
    assert "another version" in b.page.text and "adas own" in kept and "bobs own" not in kept, (a.page.text[:300], b.page.text[:300], kept[:200])
    a.get("do/credential/set?a1=api")
    form = a.page.forms[-1]
    del form["fields"]["seen"]
    a.submit(form=form, f__prefix="none ")
    assert a.status == 409, "a form that does not say what it was made from"


def test_factor(t):
    """an operator with --totp sets the app up with the link, and it is asked for"""
    import base64, hmac, struct, time, hashlib
    s, up, a, _ = world(t)
    wait(lambda: a.raw("GET", "/login")[0] == 200, 15, "the page")
    link = s.cli("user", "add", "tess", "--operator", "--totp").stdout.strip()
    s.canaries.append(link.split(".")[-1])
    text = a.raw("GET", "/login?" + urllib.parse.urlsplit(link).query)[2]
    key, nonce = re.search(r"<code>([A-Z2-7 ]+)</code>", text)[1].replace(" ", ""), re.search(r'name="nonce" value="([^"]*)"', text)[1]

    def code(step=0):
        mac = hmac.new(base64.b32decode(key), struct.pack(">Q", int(time.time()) // 30 + step), hashlib.sha1).digest()
        at = mac[19] & 15
        return "%06d" % ((struct.unpack(">I", mac[at:at + 4])[0] & 0x7fffffff) % 1000000)
    assert a.set_password(link, nonce=nonce, code="000000")[0] == 403
    used = code(-1)
    assert a.set_password(link, nonce=nonce, code=used)[0] == 200
    assert a.sign_in("tess") == 403 and a.sign_in("tess", code=used) == 403, "none, and one that was used"
    assert a.sign_in("tess", code=code()) == 200


def test_openid(t):
    """an operator signs in with the organisation's provider (oidc-provider): bound by a link, known from then on; strangers, people who are no operator, another browser's and spent answers get no session; passwords may be off"""
    if not (NPM / "oidc-provider").exists():
        t.skip("oidc-provider is not installed")
    s, up, a, link = world(t)
    base, port = "http://" + a.at, free_port()
    idp, log = f"http://127.0.0.1:{port}", s.dir / "oidc.log"
    t.start([NODE, HERE / "door.mjs", NPM, "oidc", str(port), base], log)
    s.canaries.append("canary-oidc-1")

    def setting(*more):
        s.cli("set", "login-oidc", idp, "client_id=box", "client_secret=-", "address=127.0.0.0/8", *more, stdin="canary-oidc-1")

    def onward(b):
        return html.unescape(re.search(r'content="0;url=([^"]*)"', b.page)[1])

    def at_provider(start="/login"):
        b = Browser(base)
        b.go(base + start).submit("/login/oidc")
        assert re.fullmatch(r"sallyport-oidc=[\w-]{43}; Path=/login/oidc/[\w-]{43}/; HttpOnly; SameSite=Strict; Max-Age=600", b.head["Set-Cookie"]), b.head
        return b.go(onward(b), within=(idp,))

    def sign_in(login, start="/login"):
        b = there(at_provider(start), idp, login)
        assert b.at.startswith(base + "/login/oidc/callback?"), (b.at, b.status, b.page)
        if b.status == 200:
            b.back, b.own = b.at, base + onward(b)
            b.go(b.own)
        return b

    def entered(b):
        cookie = re.match(r"(sallyport=[\w-]{43}); Path=(/s/[\w-]{43}/); HttpOnly; SameSite=Strict$", b.head.get("Set-Cookie", ""))
        return bool(cookie) and a.raw("GET", cookie[2], Cookie=cookie[1])[0] == 200
    wait(lambda: log.exists() and '"ready"' in log.read_text(), 20, "the provider")
    wait(lambda: a.raw("GET", "/login")[0] == 200, 15, "the page")
    assert "oidc" not in a.raw("GET", "/login")[2] and a.form("/login/oidc")[0] == 502
    setting("emails=on")
    s.cli("tenant", "add", "acme")
    s.cli("set", "public-url", "https://box.test")
    s.canaries.append(s.cli("user", "add", "bob@example.org", "--tenant", "acme=admin", "--approve").stdout.strip().split(".")[-1])
    for login in ("stranger", "bob"):
        b = sign_in(login)
        assert b.status == 403 and "Nobody has let you in" in b.page and not entered(b), (login, b.page)
    b = sign_in("lovelace", "/login?" + urllib.parse.urlsplit(link).query)
    assert entered(b), (b.status, b.page)
    assert a.raw("GET", "/login?" + urllib.parse.urlsplit(link).query)[0] == 400, "the link is spent"
    setting()
    b = sign_in("lovelace")
    assert entered(b), "bound from then on"
    for again in (b.back, b.own):
        assert b.go(again).status == 403 and "Set-Cookie" not in b.head, "once"
    changes = [json.loads(x) for x in s.cli("log", "--json", "--kind", "change").stdout.splitlines()]
    assert [(c["by"], c["door"]) for c in changes if c.get("page", "").endswith("/login/oidc/callback")] == [("lovelace", "page")], changes
    mine, other = at_provider(), Browser(base)
    form = urllib.parse.urlencode({"next": ""})
    for _ in range(40):       # a stranger at another address begins more than there is room for
        c = http.client.HTTPConnection(a.at, timeout=30 * sallyport.SLOW, source_address=("127.0.0.2", 0))
        c.request("POST", "/login/oidc", form, {"Host": a.at, "Origin": base, "Sec-Fetch-Site": "same-origin", "Content-Type": "application/x-www-form-urlencoded"})
        assert c.getresponse().status == 200
        c.close()
    there(mine, idp, "lovelace")
    own = base + onward(mine)
    assert other.go(own).status == 403 and "Set-Cookie" not in other.head, "the path without its cookie"
    assert entered(mine.go(own)), "which spent nothing of hers"
    for path in ("callback", "callback?state=" + "x" * 43 + "&code=x", "x" * 43 + "/", ""):
        assert a.raw("GET", "/login/oidc/" + path)[0] in (403, 404), path
    for head in ({"Origin": "https://evil.test"}, {"Origin": None}, {"Sec_Fetch_Site": "cross-site"}):
        assert a.form("/login/oidc", head)[0] == 403, head
    setting("only=on")
    assert 'name="password"' not in a.raw("GET", "/login")[2] and a.form("/login", user="ada", password=PASSWORD)[0] == 403
    s.cli("user", "set", "ada", "--no-operator")
    assert not entered(sign_in("lovelace"))


def test_process(t):
    """what the page does holds up nobody, for it is another process; it comes back when it is killed, and ends with the server; its socket is no other process's"""
    s, up, a, link = world(t)
    wait(lambda: a.raw("GET", "/login")[0] == 200, 15, "the page")
    a.set_password(link)
    s.may_die = "yes"
    pid = page_pid(s)
    assert pid and pid in s.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    assert s.request(host="no.test", wire=None).status == 403, "a page that stands still holds up no agent"
    os.kill(pid, signal.SIGKILL)
    wait(lambda: page_pid(s) not in (None, pid), 15, "another page")
    wait(lambda: a.sign_in("ada") == 200, 15, "a sign-in there")
    assert s.alive() and "ev=worker_died" in s.log()
    fds = [os.readlink(f"/proc/{page_pid(s)}/fd/{n}") for n in os.listdir(f"/proc/{page_pid(s)}/fd")]
    assert len([f for f in fds if f.startswith("socket:")]) <= 3, fds
    last = page_pid(s)
    assert s.stop() in (None, "")
    wait(lambda: not os.path.exists(f"/proc/{last}") or open(f"/proc/{last}/stat").read().split()[2] == "Z", 10, "its end")


def test_beyond(t):
    """beyond this machine: refused without TLS or without an admin-url, by its reason; with both it is served at that name alone; a Unix socket is its owner's"""
    port = free_port()
    s, up = t.proxy(workers=1, serve=False)
    base = sallyport.certs()
    cert, key = base / "leaf.pem", base / "leaf.key"

    def refused(*flags):
        r = s.cli("serve", "--listen", "127.0.0.1:0", "--admin", *flags, check=False)
        assert r.returncode == 1, r
        return r.stderr
    for at in ("0.0.0.0", "192.0.2.7", "[::]"):
        assert "it needs TLS" in refused(f"{at}:{port}", "--admin-url", "https://box.lan:7443")
    assert "go together" in refused(f"0.0.0.0:{port}", "--admin-cert", "/etc/passwd")
    folder = s.dir / "tls"
    folder.mkdir()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", folder / "key", "-out", folder / "cert", "-days", "30",
                    "-subj", "/CN=box.lan", "-addext", "subjectAltName=DNS:box.lan"], check=True, capture_output=True)
    tls = ["--admin-cert", folder / "cert", "--admin-key", folder / "key"]
    tls = list(map(str, tls))
    assert "needs an admin-url" in refused(f"0.0.0.0:{port}", *tls)
    assert "https where there is an admin-cert" in refused(f"127.0.0.1:{port}", "--admin-url", "https://box.lan:7443")
    path = s.dir / "page.sock"
    s.serve("--admin", f"0.0.0.0:{port}", "--admin", f"unix:{path}", "--admin-url", f"https://box.lan:{port}", *tls)

    def curl(*args):
        out = subprocess.run(["curl", "-s", "-o", s.dir / "out", "-w", "%{http_code}", "--max-time", "20", *map(str, args)], capture_output=True, text=True)
        return out.stdout, (s.dir / "out").read_text() if (s.dir / "out").exists() else ""
    here = ["--resolve", f"box.lan:{port}:127.0.0.1", "--cacert", folder / "cert"]
    wait(lambda: curl(*here, f"https://box.lan:{port}/login")[0] == "200", 15, "the page over TLS")
    assert curl(f"http://127.0.0.1:{port}/login")[0] == "000", "no plain HTTP there"
    assert curl("-k", f"https://127.0.0.1:{port}/login")[0] == "421", "at its name alone"
    assert os.stat(path).st_mode & 0o777 == 0o600
    sock = ["--unix-socket", path]
    assert curl(*sock, "http://127.0.0.1:7082/login")[0] == "200" and curl(*sock, "http://evil.test/login")[0] == "421" and curl(*sock, "http://evil.test:80/login")[0] == "421"
    assert s.stop() in (None, "") and not path.exists(), "the socket's file goes with the server"
