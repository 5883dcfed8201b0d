"""An agent asks for an account at three hosts, and a person connects it in the same step: tokens pasted and tried at once, or a sign-in; on the
page, over the API and at the door. oidc-provider over TLS is the authorization server."""
import base64
import hashlib
import http.client
import json
import re
import secrets
import ssl
import subprocess
import time
import urllib.parse
import urllib.request

import oauth_test
import sallyport
from admin_test import Admin
from api_test import Api
from authorization_test import PASSWORD, Browser
from servers import free_port

OK = {"reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"}
HOSTS = ("drive", "docs", "mail")


class Server(oauth_test.Server):
    """As https://id.test:PORT, for a proposal's token_url is https."""
    process, tls = None, ("id.test", sallyport.certs() / "ok.pem", sallyport.certs() / "ok.key")

    @property
    def issuer(self):
        return f"https://id.test:{self.port}"

    def here(self, url):
        """Where the server is, for who asks without the proxy."""
        return url.replace(self.issuer, f"https://127.0.0.1:{self.port}")

    def tokens(self, *scopes):
        """What a person's own client of this account holds -> refresh token, access token"""
        verifier = secrets.token_urlsafe(32)
        back = "http://127.0.0.1:1/callback"
        query = {"response_type": "code", "client_id": "public", "redirect_uri": back, "scope": "openid read " + " ".join(scopes), "state": "s",
                 "code_challenge": base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode(), "code_challenge_method": "S256"}
        person = person_of(self)
        person.consent(self.issuer + "/auth?" + urllib.parse.urlencode(query))
        code = urllib.parse.parse_qs(urllib.parse.urlsplit(person.went[-1]).query)["code"][0]
        form = {"grant_type": "authorization_code", "client_id": "public", "code": code, "redirect_uri": back, "code_verifier": verifier}
        with person.opener.open(self.here(self.issuer + "/token"), urllib.parse.urlencode(form).encode()) as r:
            got = json.loads(r.read())
        return got["refresh_token"], got["access_token"]

    def knows(self, authorization):
        request = urllib.request.Request(self.here(self.issuer + "/api"), headers={"authorization": authorization})
        with urllib.request.urlopen(request, timeout=10, context=unverified()) as r:
            return json.loads(r.read())

    def spent(self):
        return len(self.events(event="grant.success", grant="refresh_token"))


def unverified():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def person_of(server):
    """A browser that reaches the server under its name."""
    return oauth_test.Person(server.here, urllib.request.HTTPSHandler(context=unverified()))


def recipe(server, client="public", **more):
    """One proposal with three services and one OAuth credential."""
    return {"services": [{"name": n, "host": f"{n}.test", "auth": {"type": "bearer", "token": "DRIVE"}} for n in HOSTS],
            "credentials": [{"key": "DRIVE", "type": "oauth", "description": "the team's drive", "obtain": "https://console.test/credentials",
                             "oauth": {"authorization_url": server.issuer + "/auth", "token_url": server.issuer + "/token", "client_id": client, "scopes": "openid read", **more}}],
            "user_message": "I need to read the team's documents."}


def roads(s, up, server):
    return ["--upstream-ca", sallyport.certs() / "root.pem", *(x for n in HOSTS for x in ("--connect-to", f"{n}.test:443:127.0.0.1:{up.port}")),
            "--connect-to", f"id.test:{server.port}:127.0.0.1:{server.port}"]


def world(t, serve=True):
    server = Server(t)
    s, up = t.proxy(workers=2, serve=False, upstream=OK)
    if serve:
        s.serve(*roads(s, up, server))
    return s, up, server


class Agent:
    """The client that a skill file for Agent Vault describes, with that product's names alone: curl, three variables, its answers."""

    def __init__(self, s):
        env = json.loads(s.cli("env", "--agent", "a", "--format", "json").stdout)
        self.addr, self.token, self.vault = (env["AGENT_VAULT_" + n] for n in ("ADDR", "TOKEN", "VAULT"))
        s.canaries.append(self.token)
        self.s = s

    def curl(self, path, body=None):
        more = ["-X", "POST", "-H", "Content-Type: application/json", "-d", json.dumps(body)] if body else []
        out = subprocess.run(["curl", "-sS", "-w", "\n%{http_code}", "--noproxy", "*", "-H", "Authorization: Bearer " + self.token, "-H", "X-Vault: " + self.vault, *more, self.addr + path],
                             capture_output=True, text=True, check=True, timeout=30 * sallyport.SLOW).stdout
        text, _, status = out.rpartition("\n")
        return int(status), json.loads(text)

    def refused(self, host):
        """-> the hint of the refusal that the agent met"""
        r = self.s.request(host=host, wire=None)
        value = json.loads(r.body)
        assert r.status == 403 and r.get("x-agent-vault-proxy-error") == "true", (r.status, value)
        return value["proposal_hint"]

    def ask(self, what):
        hint = self.refused("drive.test")
        assert hint["host"] == "drive.test" and hint["endpoint"] == "POST /v1/proposals" and "bearer" in hint["supported_auth_types"], hint
        status, self.made = self.curl("/v1/proposals", what)
        assert status == 201 and self.made["status"] == "pending" and self.made["vault"] == self.vault and self.made["message"].startswith("Proposal created."), self.made
        assert self.state() == "pending"
        return self.made

    def state(self):
        return self.curl("/v1/proposals/" + str(self.made["id"]))[1]["status"]

    def works(self, up, server):
        """All three hosts take the account's token, which the server knows."""
        assert self.state() == "applied"
        _, found = self.curl("/discover")
        assert {n + ".test" for n in HOSTS} <= {x["host"] for x in found["services"]} and found["vault"] == self.vault and found["available_credentials"] == ["DRIVE"], found
        seen = set()
        for n in HOSTS:
            assert self.s.request(host=n + ".test", wire=None).status == 200, n
            seen.add(up.requests[-1].get("authorization"))
        assert len(seen) == 1 and server.knows(seen.pop())["sub"] == "somebody"


def credentials(s):
    return [c["name"] for c in json.loads(s.cli("credential", "list", "--json").stdout)]


def asked_on_page(t):
    """The agent has asked, and an operator has the proposal's page -> …, the form that answers it."""
    s, up, server = world(t)
    agent = Agent(s)
    made = agent.ask(recipe(server))
    a = Admin(t, s).sign_in()
    a.get("proposals/" + made["id"])
    return s, up, server, agent, a, next(f for f in a.page.forms if "k.DRIVE.refresh_token" in f["fields"])


def test_pasted(t):
    """the seed's recipe: three services and one account in one proposal, its tokens pasted on the page and tried at once; ones that do not work approve nothing; the agent polls, and all three hosts take the token"""
    s, up, server, agent, a, form = asked_on_page(t)
    assert "its account is signed in to at id.test, and its client secret goes to id.test" in a.page.text and a.page.text.count("may send anything to") == 3
    a.submit(form=form, **{"k.DRIVE.refresh_token": "canary-not-a-token"})
    s.canaries.append("canary-not-a-token")
    assert a.status == 400 and "nothing was approved: the tokens of drive did not work" in a.page.text and "invalid_grant" in a.page.text and "canary" not in a.html, a.page.text
    assert agent.state() == "pending" and credentials(s) == [] and len(server.events(event="grant.error", grant="refresh_token")) == 1
    refresh, access = server.tokens("offline_access")
    s.canaries += [refresh, access]
    before = server.spent()
    a.submit(form=form, **{"k.DRIVE.refresh_token": refresh, "k.DRIVE.access_token": access})
    assert a.status == 200 and "Approved: drive, docs, mail" in a.page.text and refresh not in a.html and "Sign in" not in a.page.text, a.page.text
    assert server.spent() == before + 1, "tried at once, once"
    assert credentials(s) == ["drive"]
    agent.works(up, server)
    assert up.requests[-1].get("authorization") != "Bearer " + access and server.spent() == before + 1, "what came for it is used"
    a.get("do/credential/add?o.type=oauth_authorization_code")
    other = server.tokens("offline_access")[0]
    s.canaries.append(other)
    own = {"a1": "own", "o.host": "own.test", "f.authorization_url": server.issuer + "/auth", "f.token_url": server.issuer + "/token", "f.client_id": "public"}
    a.submit(**own, **{"t.refresh_token": "canary-not-a-token"})
    assert a.status == 400 and "nothing was kept, for the refresh token did not work" in a.page.text and credentials(s) == ["drive"] and "canary" not in a.html, a.page.text
    before = server.spent()
    a.submit(**own, **{"t.refresh_token": other})
    assert a.status == 200 and "Kept 'own' for own.test" in a.page.text and "Verify" in a.page.text and "Sign in" not in a.page.text.replace("Sign out", "") and other not in a.html, a.page.text
    assert server.spent() == before + 1 and "connected" in json.dumps(json.loads(s.cli("credential", "show", "own", "--json").stdout))


def test_table(t):
    """the table of that product's protocol, row by row, by its own client: who it is let in as, limits and one more of each, fields left out, a key that is there already, states, what is polled, the marker and the hint"""
    s, up = t.proxy(workers=2, upstream=OK)
    secret = "canary-table-0123456789"
    s.canaries.append(secret)
    agent = Agent(s)
    bearer = lambda name, key="K", **more: {"name": name, "host": name + ".test", "auth": {"type": "bearer", "token": key}, **more}
    key = lambda name="K", **more: {"key": name, **more}

    def made(want=201, **what):
        status, value = agent.curl("/v1/proposals", what)
        assert status == want, (status, value, str(what)[:300])
        return value
    # 4.2: either half of Basic, Basic without a colon, Bearer, and the successor's name; the vault as a hint
    def connect(auth):
        c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=30 * sallyport.SLOW)
        c.request("CONNECT", "api.test:443", headers={"Host": "api.test:443", "Proxy-Authorization": auth})
        r = c.getresponse()
        c.close()
        return r.status, r.headers.get("Proxy-Authenticate")
    for auth in (f"{agent.token}:{agent.vault}", f"{agent.token}:", agent.token, f"x-agent-vault:{agent.token}"):
        assert connect("Basic " + base64.b64encode(auth.encode()).decode())[0] == 200, auth
    assert connect("Bearer " + agent.token)[0] == 200
    # 4.2: an unknown vault, and one that is there and not the agent's. Beside the token may stand what is no bundle's name: a password
    # that clients want, and DESIGN lets the token stand in either half
    s.cli("bundle", "add", "theirs")
    s.cli("bundle", "add", "second")
    s.cli("agent", "set", "a", "--bundle", "default", "--bundle", "second")
    for vault, want in (("nowhere", 404), ("theirs", 403), ("second", 200), ("x" * 300, 404), ("de/fault", 404), ("default/", 404)):
        assert connect("Basic " + base64.b64encode(f"{agent.token}:{vault}".encode()).decode())[0] == (want if want == 403 else 200), vault
        agent.vault = vault
        status, found = agent.curl("/discover")
        assert status == want and (found.get("vault"), found.get("error")) == {200: (vault, None), 403: (None, "forbidden"), 404: (None, "vault_not_found")}[want], (vault, found)
    r = s.request(host="nowhere.test", wire=None, auth="Proxy-Authorization: Basic " + base64.b64encode(f"{agent.token}:second".encode()).decode() + "\r\n")
    assert r.status == 403, r.head
    agent.vault = "second"
    into = made(services=[bearer("into")], credentials=[key()])
    assert into["vault"] == "second" and "every agent with the bundle second" in s.cli("proposal", "show", into["id"]).stdout
    s.cli("proposal", "reject", into["id"])
    agent.vault = "default"
    status, field = connect("Basic " + base64.b64encode(b"av_agt_nobody:default").decode())
    assert status == 407 and field.startswith("Basic realm="), field
    # 4.4: the CA and the port, without a token
    out = subprocess.run(["curl", "-sS", "-i", "--noproxy", "*", agent.addr + "/v1/mitm/ca.pem"], capture_output=True, text=True, check=True, timeout=30 * sallyport.SLOW).stdout
    assert "BEGIN CERTIFICATE" in out and f"x-mitm-port: {s.port}" in out.lower(), out
    # 4.3: the marker, the code and the hint
    r = s.request(host="nowhere.test", wire=None)
    value = json.loads(r.body)
    assert (r.get("content-type"), r.get("x-agent-vault-proxy-error")) == ("application/json", "true") and {"error", "message", "hint"} <= set(value) and value["proposal_hint"]["supported_auth_types"] == ["bearer", "basic", "api-key", "custom", "passthrough"], value
    # 1.6: limits, each at its most and with one more
    for n, want in ((10, 201), (11, 400)):
        made(want, services=[bearer(f"s-{i}", f"K{i}") for i in range(n)], credentials=[key(f"K{i}") for i in range(n)])
    for name, most in (("description", 500), ("obtain", 500), ("obtain_instructions", 1000)):
        for n, want in ((most, 201), (most + 1, 400)):
            made(want, services=[bearer("one")], credentials=[key(**{name: "x" * n})])
    for name, want in (("abc", 201), ("x" * 64, 201), ("A-b", 201), ("-ab", 400), ("a b", 400), ("x" * 65, 400)):
        made(want, services=[{**bearer("one"), "name": name}], credentials=[key()])
    # 1.2: what may be left out: a name, a header, a prefix, a password
    low = made(services=[{"host": "plain.test/v2/*", "auth": {"type": "api-key", "key": "K"}}, {"host": "user.test", "auth": {"type": "basic", "username": "USER"}}], credentials=[key(), key("USER", type="static", action="set")])
    agent.made = low
    assert agent.state() == "pending" and low["id"] and set(low) >= {"id", "status", "vault", "message"}
    s.cli("proposal", "approve", low["id"], "K=-", f"USER=@{s.secret_file(secret)}", stdin=secret)
    assert agent.state() == "applied"
    kept = {c["name"]: c for c in json.loads(s.cli("credential", "list", "--json").stdout)}
    assert kept["plain-test"]["fields"] == {"header": "authorization"} and kept["plain-test"]["paths"] == ["/v2"], kept
    # a key that is in the vault and not in the proposal: its secret is typed anew, and the credential that has it stays
    found = agent.curl("/discover")[1]
    assert found["available_credentials"] == ["K", "USER"] and {"name": "plain-test", "host": "plain.test/v2/*"} in found["services"], found
    assert "none that this agent has" in made(400, services=[bearer("more", "NOBODY")])["message"]
    again = made(services=[bearer("more", "K")])
    shown = s.cli("proposal", "show", again["id"]).stdout
    assert "the agent means the secret of the credential plain-test" in shown, shown
    assert s.cli("proposal", "approve", again["id"], check=False).returncode == 2, "nothing is copied"
    s.cli("proposal", "approve", again["id"], "K=-", stdin=secret + "2")
    assert json.loads(s.cli("credential", "show", "plain-test", "--json").stdout)["hosts"] == ["plain.test"] and "more" in credentials(s)
    s.cli("bundle", "add", "other")
    s.cli("credential", "add", "theirs", "--type", "bearer", "--host", "theirs.test", "--bundle", "other", f"token=@{s.secret_file(secret)}")
    made(400, services=[bearer("more", "THEIRS")])
    # rejected with a reason; a value that came along goes with it
    agent.made = made(services=[bearer("own")], credentials=[key(value=secret + "3")])
    s.cli("proposal", "reject", agent.made["id"], "--reason", "not now")
    status, polled = agent.curl("/v1/proposals/" + agent.made["id"])
    assert (status, polled["status"], polled["reason"], polled["vault"]) == (200, "rejected", "not now", agent.vault), polled
    waits = [p for p in json.loads(s.cli("proposal", "list", "--json").stdout) if p["state"] == "pending"]
    for _ in range(20 - len(waits)):
        made(services=[bearer("own")], credentials=[key()])
    full = made(429, services=[bearer("own")], credentials=[key()])
    assert full["error"] == "too_many" and "a person makes room" in full["hint"], full


def test_found_again(t):
    """an agent looks, asks, polls, and finds what it asked for by the names that it gave: keys, services with their ports and paths; it asks again by a key alone, and takes services away by name"""
    s, up = t.proxy(workers=2, upstream=OK)
    agent, secret = Agent(s), "canary-found-0123456789"
    s.canaries.append(secret)
    value = f"@{s.secret_file(secret)}"

    def discover():
        return agent.curl("/discover")[1]

    def asked(services, *keys):
        status, agent.made = agent.curl("/v1/proposals", {"services": services, "credentials": [{"action": "set", "key": k, "type": "static"} for k in keys]})
        assert status == 201 and agent.state() == "pending", agent.made
        return agent.made["id"]
    assert (discover()["services"], discover()["available_credentials"]) == ([], [])
    services = [{"action": "set", "name": "shop", "host": "shop.test", "auth": {"type": "bearer", "token": "SHOP_KEY"}},
                {"action": "set", "name": "desk", "host": "desk.test/rest/*", "auth": {"type": "basic", "username": "DESK_USER", "password": "DESK_PASS"}},
                {"action": "set", "name": "keyed", "host": "keyed.test:8443/v1/*", "auth": {"type": "api-key", "key": "KEYED", "header": "X-Key"}},
                {"action": "set", "name": "two-heads", "host": "heads.test:8443", "auth": {"type": "custom", "headers": {"X-A": "{{ HEAD_A }}", "X-B": "Token {{ HEAD_B }}"}}},
                {"action": "set", "name": "bot", "host": "bot.test", "auth": {"type": "passthrough"}, "substitutions": [{"key": "BOT", "placeholder": "__bot__", "in": ["path"]}]},
                {"action": "set", "name": "docs", "host": "docs.test/en/*", "auth": {"type": "passthrough"}}]
    keys = ["SHOP_KEY", "DESK_USER", "DESK_PASS", "KEYED", "HEAD_A", "HEAD_B", "BOT"]
    id = asked(services, *keys)
    s.cli("proposal", "approve", id, "DESK_USER=ada", *(f"{k}={value}" for k in keys if k != "DESK_USER"), "--place", "bot=path=/bot{}/**", "--path", "docs=/en/guide", "--method", "shop=GET")
    assert agent.state() == "applied"
    found = discover()
    assert sorted(found["available_credentials"]) == sorted(keys), found
    want = sorted([(x["name"], x["host"]) for x in services if x["name"] != "docs"] + [("docs", "docs.test/en/guide/*")])
    assert sorted((x["name"], x["host"]) for x in found["services"]) == want, found
    # what was approved is shown as it is, and not as it was asked for
    shown = s.cli("proposal", "show", id).stdout
    assert "BOT for __bot__ at path=/bot{}/**" in shown and "docs.test/en/guide" in shown and "shop.test, by GET alone, with SHOP_KEY attached" in shown and "where you name it" not in shown, shown
    # a key that is there, in a service of its own; and left out in part
    id = asked([{**services[0], "name": "more", "host": "more.test"}, {**services[0], "name": "most", "host": "most.test"}])
    s.cli("proposal", "approve", id, "--only", "more", f"SHOP_KEY={value}")
    assert discover()["available_credentials"].count("SHOP_KEY") == 1 and {"name": "more", "host": "more.test"} in discover()["services"]
    assert "Left out of what was approved: " in s.cli("proposal", "show", id).stdout
    # an empty list of substitutions keeps those that are there; another key is what it is called from then on
    id = asked([{**services[0], "substitutions": [{"key": "SHOP_KEY", "placeholder": "__shop__", "in": ["query=k"]}]}])
    s.cli("proposal", "approve", id, f"SHOP_KEY={value}")
    id = asked([{**services[0], "substitutions": []}])
    s.cli("proposal", "approve", id, f"SHOP_KEY={value}")
    assert [r["place"] for r in json.loads(s.cli("credential", "show", "shop", "--json").stdout)["rows"]] == [["query=k"]]
    id = asked([{**services[0], "auth": {"type": "bearer", "token": "NEW_KEY"}}], "NEW_KEY")
    s.cli("proposal", "approve", id, f"NEW_KEY={value}")
    assert json.loads(s.cli("credential", "show", "shop", "--json").stdout)["keys"] == ["NEW_KEY"] and "NEW_KEY" in discover()["available_credentials"]
    s.cli("credential", "set", "shop", "--method", "GET,POST")
    assert "NEW_KEY" in discover()["available_credentials"], "what changes something else keeps it"
    # taken away by name, with a credential and without
    assert agent.curl("/v1/proposals", {"services": [{"action": "delete", "name": "nothing"}]})[0] == 400
    id = asked([{"action": "delete", "name": "shop"}, {"action": "delete", "name": "docs"}])
    shown = s.cli("proposal", "show", id).stdout
    assert "may no longer use the credential shop" in shown and "may no longer reach docs.test" in shown, shown
    s.cli("proposal", "approve", id)
    assert "NEW_KEY" not in discover()["available_credentials"] and not {"shop", "docs"} & {x["name"] for x in discover()["services"]}
    # null is what is left out
    service = {"action": None, "name": None, "host": "null.test", "auth": {"type": "api-key", "key": "NULLED", "header": None, "prefix": None}, "substitutions": None, "enabled": None}
    status, agent.made = agent.curl("/v1/proposals", {"services": [service], "credentials": [{"key": "NULLED", "type": None, "value": None, "description": None, "oauth": None}], "message": None, "user_message": None})
    assert status == 201, agent.made
    s.cli("proposal", "approve", agent.made["id"], f"NULLED={value}")
    assert {"name": "null-test", "host": "null.test"} in discover()["services"]
    for wrong in ({"services": [None]}, {"services": None}, {"services": [service], "credentials": [None]}, {"services": [{**service, "auth": None}]}, {"services": [{**service, "auth": {"type": "bearer", "token": None}}]}):
        assert agent.curl("/v1/proposals", wrong)[0] == 400, wrong
    # an account is nobody's to type
    s.cli("credential", "add", "acc", "--type", "oauth_authorization_code", "--host", "acc.test", "token_url=https://id.test/token", "authorization_url=https://id.test/auth", "client_id=c")
    status, said = agent.curl("/v1/proposals", {"services": [{**services[0], "name": "acc-more", "host": "acc-more.test", "auth": {"type": "bearer", "token": "ACC"}}]})
    assert status == 400 and "sallyport credential set acc --host" in said["message"], said


def test_signed_in(t):
    """without tokens the page that says 'approved' leads to the provider, one click away; it comes back here, and the account is connected"""
    s, up, server, agent, a, form = asked_on_page(t)
    a.submit(form=form)
    url = next((link for link, text in a.page.links if text == f"Open id.test:{server.port}"), None)
    assert url, (a.status, a.page.text, a.page.links)
    assert f"http://{a.at}/callback" in a.page.text and s.request(host="drive.test", wire=None).status == 502
    at, status, page = person_of(server).consent(url)
    assert status == 200 and "The account is connected" in page, (at, status, page)
    agent.works(up, server)


def test_api(t):
    """the same for programs: consent begun and finished with one token, by its own answer alone; tokens pasted in an approval and into a credential are tried at once; the document has it all"""
    s, up, server = world(t)
    agent = Agent(s)
    api = Api(t, s, "write")
    made = agent.ask(recipe(server))
    refresh, access = server.tokens("offline_access")
    s.canaries += [refresh, access]
    bad = api.ask("POST", f"/proposals/{made['id']}/approve", {"secrets": {"DRIVE.refresh_token": "canary-not-a-token"}}, want=422)
    assert "did not work" in bad["message"] and credentials(s) == [] and agent.state() == "pending"
    got = api.ask("POST", f"/proposals/{made['id']}/approve", {"secrets": {"DRIVE.refresh_token": refresh}})
    assert got["state"] == "applied" and got["accounts"] == [], got
    agent.works(up, server)
    at = "/credentials/drive/consent"
    for body in ({"scopes": "read"}, {"scopes": ["a b"]}, {"redirect_uri": 5}, {"redirect_uri": "nowhere"}, {"redirect_uri": "https://x.test/#y"}, {"more": 1}):
        assert api.raw("POST", at, body)[0] in (400, 422), body
    api.ask("POST", "/credentials/nobody/consent", {}, want=404)
    api.ask("POST", at + "/finish", {}, want=400)
    assert "no sign-in" in api.ask("POST", at + "/finish", {"answer": "http://127.0.0.1:1/callback?code=x&state=y"}, want=422)["message"]
    assert api.raw("POST", at, {}, token=api.new("read"))[0] == 403
    begun = api.ask("POST", at, {"redirect_uri": "http://127.0.0.1:1/callback", "scopes": ["offline_access"]})
    assert begun["url"].startswith(server.issuer + "/auth?") and "offline_access" in begun["url"], begun
    person = person_of(server)
    person.consent(begun["url"])
    answer = person.went[-1]
    for wrong in (re.sub("state=[^&]*", "state=x", answer), "http://127.0.0.1:1/callback", answer + "&code=2"):
        api.ask("POST", at + "/finish", {"answer": wrong}, want=422)
    other = api.new("write")
    assert api.raw("POST", at + "/finish", {"answer": answer}, token=other)[0] == 422, "another token's sign-in"
    was = up.requests[-1].get("authorization")
    done = api.ask("POST", at + "/finish", {"answer": answer})
    assert done["name"] == "drive" and done["connection"] == "connected" if "connection" in done else done["token"]["valid"], done
    agent.works(up, server)
    assert up.requests[-1].get("authorization") != was, "the new grant counts"
    api.ask("POST", at + "/finish", {"answer": answer}, want=422)
    change = [json.loads(x) for x in s.cli("log", "--json", "--kind", "change").stdout.splitlines()][-1]
    assert change["by"].startswith("token ") and change["door"] == "api" and change["command"] == "connect" and "page" not in change, change
    refresh = server.tokens("offline_access")[0]
    s.canaries.append(refresh)
    before = server.spent()
    oauth = {"authorization_url": server.issuer + "/auth", "token_url": server.issuer + "/token", "client_id": "public"}
    api.ask("POST", "/credentials", {"name": "own", "type": "oauth_authorization_code", "hosts": ["own.test"], "fields": {**oauth, "refresh_token": "canary-not-a-token"}}, want=422)
    assert credentials(s) == ["drive"]
    made = api.ask("POST", "/credentials", {"name": "own", "type": "oauth_authorization_code", "hosts": ["own.test"], "fields": {**oauth, "refresh_token": refresh}}, want=201)
    assert made["name"] == "own" and server.spent() == before + 1 and refresh not in json.dumps(made)
    assert "code_challenge" in api.ask("POST", "/credentials/own/consent", {})["url"]
    api.ask("PATCH", "/credentials/own", {"fields": {"pkce": False}})
    assert "code_challenge" not in api.ask("POST", "/credentials/own/consent", {})["url"], "for a server that refuses it"


def attacked(s, server, eve, ada, base, at, url, back):
    """Eve is an admin of a tenant at this door, and Ada has begun to sign in to an account: nothing of Eve's counts there."""
    here = urllib.parse.urlsplit(base)
    for path, fields in ((at, [("answer", "approve"), ("s.1", "on")]), (at, [("answer", "reject")]), ("/approvals/q/12ab", [("answer", "always")])):
        assert eve.go(base + path, fields).status == 403, (path, eve.status)
    for path in ("/approvals", at, "/approvals/callback?" + urllib.parse.urlsplit(back).query):
        assert eve.go(base + path).status == 403, path
    # Another account's code in Ada's answer: it was given for another verifier (RFC 7636).
    mine = re.sub("code_challenge=[^&]*", "code_challenge=" + base64.urlsafe_b64encode(hashlib.sha256(b"e" * 43).digest()).rstrip(b"=").decode(), url)
    stranger = person_of(server)
    stranger.consent(mine)
    injected = next(u for u in stranger.went if "/approvals/callback" in u)
    assert urllib.parse.parse_qs(urllib.parse.urlsplit(injected).query)["state"] == urllib.parse.parse_qs(urllib.parse.urlsplit(back).query)["state"]
    assert ada.go(injected).status == 400 and "was not connected" in ada.page, ada.page
    # A client of the door's own OAuth that has the callback as its redirect address: its codes and states are none of a sign-in's.
    c = http.client.HTTPConnection(here.hostname, here.port, timeout=30 * sallyport.SLOW)
    c.request("POST", "/oauth/register", json.dumps({"client_name": "eve", "redirect_uris": [base + "/approvals/callback"], "token_endpoint_auth_method": "none"}), {"Content-Type": "application/json"})
    r = c.getresponse()
    made = json.loads(r.read())
    c.close()
    assert r.status in (201, 400), (r.status, made)
    for state in ("eve", "x.%x.y.z" % int(time.time()), *re.findall(r'name="csrf" value="([^"]+)"', ada.go(base + "/connections").page)):
        assert ada.go(base + "/approvals/callback?" + urllib.parse.urlencode({"code": "eve", "state": state})).status == 400, state
    assert s.request(host="drive.test", wire=None).status == 502, "not connected by any of it"


def test_door(t):
    """from a phone: approval_url, approve, and the provider's page one click away; its answer counts in this session alone and once; who may not answer, though a tenant's admin, connects nothing by codes, states or clients of their own; pasted tokens are tried at once"""
    s, up, server = world(t, serve=False)
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    s.cli("set", "public-url", base)
    s.cli("tenant", "add", "acme")
    links = {who: s.cli("user", "add", who, *flags).stdout.strip() for who, flags in (("ada", ["--approve"]), ("bob", ["--approve"]), ("eve", ["--tenant", "acme=admin"]))}
    s.canaries.append(PASSWORD)
    s.serve("--gateway", f"127.0.0.1:{port}", *roads(s, up, server))
    people = {who: Browser(base).set_password(link) for who, link in links.items()}
    ada, agent = people["ada"], Agent(s)
    made = agent.ask(recipe(server))
    at = "/approvals/p/" + made["id"]
    assert made["approval_url"] == base + at
    ada.go(made["approval_url"])
    assert f"{base}/approvals/callback" in ada.page and "DRIVE: refresh token" in ada.page, ada.page
    every = [(f"s.{i}", "on") for i in (1, 2, 3)]
    ada.submit(at, ("answer", "approve"), *every, ("k.DRIVE.refresh_token", "canary-not-a-token"))
    s.canaries.append("canary-not-a-token")
    assert ada.status == 400 and "did not work" in ada.page and agent.state() == "pending" and credentials(s) == [], ada.page
    ada.submit(at, ("answer", "approve"), *every)
    assert ada.status == 200 and "Sign in to the account" in ada.page, ada.page
    url = re.search(r'href="(https://id\.test[^"]*)"', ada.page)[1].replace("&amp;", "&")
    assert people["eve"].go(base + at).status == 403
    person = person_of(server)
    person.consent(url)
    back = next(url for url in person.went if "/approvals/callback" in url)
    assert back.startswith(base + "/approvals/callback?"), back
    for who in ("bob", "eve"):
        assert people[who].go(back).status in (400, 403), "another session"
    for wrong in (re.sub("state=[^&]*", "state=x", back), re.sub(r"state=([^.]*)\.[^.]*", r"state=\1.1", back), base + "/approvals/callback"):
        assert ada.go(wrong).status == 400, wrong
    attacked(s, server, people["eve"], ada, base, at, url, back)
    ada.go(back)
    assert ada.status == 200 and "Connected" in ada.page, ada.page
    agent.works(up, server)
    assert ada.go(back).status == 400 and ada.go(base + at).status == 404, "once"
    change = [json.loads(x) for x in s.cli("log", "--json", "--kind", "change").stdout.splitlines()][-1]
    assert change["by"] == "ada" and change["page"] == "GET /approvals/callback" and change["changes"][0]["record"] == "tokens of drive", change
    s.cli("credential", "remove", "drive")
    refresh = server.tokens("offline_access")[0]
    s.canaries.append(refresh)
    made = agent.ask(recipe(server))
    at = "/approvals/p/" + made["id"]
    ada.go(base + at).submit(at, ("answer", "approve"), *every, ("k.DRIVE.refresh_token", refresh))
    assert "Approved" in ada.page, ada.page
    agent.works(up, server)
