"""A second target and a method in a body, with real clients: curl moves files on nginx's WebDAV; curl, requests and
Node send forms of every kind to a server that keeps what it gets."""
import pathlib
import subprocess

import sallyport
from body_test import Handler
from clients_test import environment, run
from servers import Recorder, nginx, node

DAV = """
    location /dav/ {{ if ($http_authorization != "Bearer {token}") {{ return 401; }} root {{dir}}/put; dav_methods PUT DELETE COPY MOVE MKCOL;
      create_full_put_path on; }}"""
TOKEN = "canary-second-5d1c"


def start(t, port, **more):
    s = t.bare()
    s.init()
    s.credential({"name": "c", "type": "bearer", "host": "api.test", "secrets": {"token": TOKEN}, **more})
    s.agent()
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{port}")
    return s, environment(s)


def test_webdav(t):
    """curl on nginx's WebDAV: COPY and MOVE stay within the path of the credential"""
    t.need("curl")
    if "http_dav_module" not in subprocess.run(["nginx", "-V"], capture_output=True, text=True).stderr:
        t.skip("this nginx has no WebDAV")
    home = t.bare().dir
    port, directory = nginx(t, home, TOKEN, more=DAV.format(token=TOKEN))
    shared, private = directory / "put/dav/shared", directory / "put/dav/private"
    for d in (shared, private):
        d.mkdir(parents=True)
    (shared / "x").write_text("mine")
    (private / "kept").write_text("theirs")
    s, env = start(t, port, path=["/dav/shared"])

    def dav(method, path, to, code=None):
        out = run(["curl", "-sS", "-o", "/dev/null", "-D", "-", "-X", method, f"https://api.test{path}", "-H", f"Destination: {to}"], env)
        answer = out.split("\r\n\r\n")[-2 if out.endswith("\r\n\r\n") else -1].lower()
        if code:
            assert f"x-sallyport-error: {code}" in answer, out
        else:
            assert " 204 " in answer or " 201 " in answer, out

    dav("COPY", "/dav/shared/x", "https://api.test/dav/shared/y")
    dav("MOVE", "/dav/shared/y", "/dav/shared/z")
    assert (shared / "z").read_text() == "mine" and not (shared / "y").exists()
    for to in ("https://api.test/dav/private/kept", "/dav/private/kept"):
        dav("COPY", "/dav/shared/x", to, "path_not_allowed")
        dav("MOVE", "/dav/shared/x", to, "path_not_allowed")
    dav("COPY", "/dav/shared/x", "/dav/shared/../private/kept", "ambiguous_path")
    dav("MOVE", "/dav/private/kept", "/dav/shared/kept", "path_not_allowed")
    assert (private / "kept").read_text() == "theirs" and (shared / "x").exists()


REQUESTS = """
import requests
u = 'https://api.test/things'
for how in ({'data': {'a': '1', '_method': 'DELETE'}}, {'json': {'a': 1}}, {'json': {'_method': 'DELETE'}}, {'files': {'f': ('n.txt', b'x')}},
            {'files': {'f': ('n.txt', b'x')}, 'data': {'_method': 'DELETE'}}, {'files': {'ünï "x': ('ünï.txt', b'x')}}, {'files': {'_method': (None, 'DELETE')}}):
    print(requests.post(u, **how).status_code)
"""
FETCH = """
const form = (...names) => { const f = new FormData(); for (const n of names) f.append(n, n === 'f' ? new Blob(['x']) : n === 'a' ? '1' : 'DELETE'); return f; };
for (const body of [form('f', 'a'), form('f', '_method'), new URLSearchParams({ a: '1', _method: 'DELETE' })])
  console.log((await fetch('https://api.test/things', { method: 'POST', body })).status);
"""


def test_forms(t):
    """curl, requests and Node: forms, JSON and multipart with and without _method, kept to GET and POST"""
    t.need("curl")
    server = Recorder(Handler)
    server.answer = type("Now", (), {"wait": lambda self, _: None})()
    s, env = start(t, server.server_port, method=["GET", "POST"])
    curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "https://api.test/things"]
    assert run([*curl, "-d", "a=1&_method=DELETE"], env) == "200" and server.got[-1][2] == b"a=1"
    assert run([*curl, "-F", "a=1", "-F", "f=@/etc/hostname"], env) == "200"
    count = len(server.got)
    assert run([*curl, "-F", "a=1", "-F", "_method=DELETE"], env) == "403"
    assert run([*curl, "-H", "Content-Type: application/json", "-d", '{"_method":"DELETE"}'], env) == "403"
    assert len(server.got) == count
    out = run(["/usr/bin/python3", "-c", REQUESTS], env).split()
    assert out[:5] + out[6:] == ["200", "200", "403", "200", "403", "403"], out
    assert all(b"DELETE" not in body for _, _, body in server.got)
    found = node()
    if found:
        script = pathlib.Path(s.dir) / "second.mjs"
        script.write_text(FETCH)
        out = run([found[0], str(script)], {**env, "NODE_USE_ENV_PROXY": "1"}).split()
        assert out == ["200", "403", "200"], out
    assert all(b"DELETE" not in body for _, _, body in server.got)
    server.shutdown()
