"""Real clients through the proxy to nginx, each with the environment that `sallyport env` sets."""
import asyncio
import http
import json
import pathlib
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import threading

import sallyport
from real import wait
from servers import free_port, nginx, node

TOKEN = "canary-client-5d0e"
NPM = sallyport.BUILD / "npm/node_modules"


def start(t, more="", credential=None, **options):
    """A proxy with a bearer credential for www.test in front of nginx -> (Sallyport, environment, nginx's folder)."""
    s = t.bare(**options)
    s.init()
    s.credential(credential or {"name": "www", "type": "bearer", "host": "www.test", "secrets": {"token": TOKEN}})
    s.agent()
    upstream, directory = nginx(t, s.dir, TOKEN, more)
    port = free_port()
    s.cli("set", "listen", f"127.0.0.1:{port}")
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"www.test:443:127.0.0.1:{upstream}",
            listen=f"127.0.0.1:{port}")
    env = environment(s)
    s.canaries.append(env["HTTPS_PROXY"].split(":")[2].split("@")[0])
    return s, env, directory


def environment(s):
    """What `eval "$(sallyport env --agent a)"` would set, on top of an empty one."""
    text = s.cli("env", "--agent", "a", env={"no_proxy": "", "NO_PROXY": ""}).stdout
    env = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(s.dir)}
    for word in shlex.split(text.replace(";", "\n"), comments=True):
        name, eq, value = word.partition("=")
        if eq and name.replace("_", "").isalnum():
            env[name] = value
    assert "HTTPS_PROXY" in env, f"`env` sets HTTPS_PROXY: {text}"
    return env


def run(argv, env, cwd=None, timeout=60, stdin=None):
    r = subprocess.run([str(a) for a in argv], env=env, cwd=cwd, input=stdin, capture_output=True, text=True,
                       timeout=timeout * sallyport.SLOW)
    assert r.returncode == 0, f"{argv[0]} ended with {r.returncode}: {r.stderr[-1500:]} {r.stdout[-500:]}"
    return r.stdout


def test_curl(t):
    """curl gets what the credential opens, and never sees it"""
    t.need("curl")
    s, env, _ = start(t)
    out = run(["curl", "-sS", "https://www.test/private"], env)
    assert out == "welcome\n", out
    s.wait_record({"path": "/private", "status": 200, "credential": "www", "agent": "a"})


def test_curl_refused(t):
    """curl is told why a host is refused"""
    t.need("curl")
    s, env, _ = start(t)
    for version in "--http1.1", "--http2":
        out = run(["curl", "-sS", "-i", version, "https://elsewhere.test/"], env)
        assert "x-sallyport-error: host_not_allowed" in out.lower(), out
        assert json.loads(out.split("\n\n")[-1])["error"] == "host_not_allowed"


def test_curl_uploads(t):
    """curl uploads 4 MiB with Expect, and chunked; what arrives is what was sent"""
    t.need("curl")
    s, env, directory = start(t)
    data = pathlib.Path(s.dir / "data")
    data.write_bytes(bytes(range(256)) * 16384)
    run(["curl", "-sS", "-f", "-T", data, "https://www.test/put/length"], env)
    run(["curl", "-sS", "-f", "-T", "-", "https://www.test/put/chunked"], env, stdin="x" * 3_000_000)
    assert (directory / "put/put/length").read_bytes() == data.read_bytes()
    assert (directory / "put/put/chunked").stat().st_size == 3_000_000


def test_curl_downloads(t):
    """curl downloads 32 MiB, whole, and resumes a part"""
    t.need("curl")
    s, env, directory = start(t)
    big = bytes(range(256)) * 131072
    (directory / "www/big").write_bytes(big)
    run(["curl", "-sS", "-f", "-o", s.dir / "got", "https://www.test/big"], env)
    assert (s.dir / "got").read_bytes() == big
    run(["curl", "-sS", "-f", "-r", "1000-1999", "-o", s.dir / "part", "https://www.test/big"], env)
    assert (s.dir / "part").read_bytes() == big[1000:2000]


def test_wget(t):
    """wget, which reads no SSL_CERT_FILE, with the bundle named"""
    t.need("wget")
    s, env, _ = start(t)
    out = run(["wget", "-q", "-O", "-", f"--ca-certificate={env['SSL_CERT_FILE']}", "https://www.test/private"], env)
    assert out == "welcome\n", out


def python(t, env, code, *modules):
    for m in modules:
        r = subprocess.run([sys.executable, "-c", f"import {m}"], capture_output=True)
        if r.returncode:
            t.skip(f"Python has no {m}")
    return run([sys.executable, "-c", code], env)


def test_python_requests(t):
    """Python requests"""
    s, env, _ = start(t)
    out = python(t, env, "import requests; s = requests.Session()\n"
                         "print([s.get('https://www.test/private').text for _ in range(3)])", "requests")
    assert out == "['welcome\\n', 'welcome\\n', 'welcome\\n']\n", out


def test_python_urllib(t):
    """Python urllib, which sends CONNECT in HTTP/1.0 without Host"""
    s, env, _ = start(t)
    out = python(t, env, "import urllib.request as u; print(u.urlopen('https://www.test/private').read())")
    assert out == "b'welcome\\n'\n", out


def test_python_urllib3(t):
    """urllib3's ProxyManager"""
    s, env, _ = start(t)
    out = python(t, env, "import os, urllib3\nfrom urllib.parse import urlsplit as p\n"
                         "u = p(os.environ['HTTPS_PROXY']); m = urllib3.ProxyManager(f'http://{u.hostname}:{u.port}',"
                         " proxy_headers=urllib3.make_headers(proxy_basic_auth=f'{u.username}:{u.password}'),"
                         " ca_certs=os.environ['SSL_CERT_FILE'])\n"
                         "print(m.request('GET', 'https://www.test/private').data)", "urllib3")
    assert out == "b'welcome\\n'\n", out


def test_boto3(t):
    """boto3's HTTP stack, with its own way to find the bundle"""
    s, env, directory = start(t)
    code = ("import boto3, botocore.config as c\n"
            "x = boto3.client('s3', endpoint_url='https://www.test', region_name='eu-west-1', aws_access_key_id='AKIAPLACEHOLDER',"
            " aws_secret_access_key='placeholder', config=c.Config(s3={'addressing_style': 'path'}))\n"
            "x.put_object(Bucket='put', Key='object', Body=b'x' * 2000000)\n"
            "print(x.get_object(Bucket='txt', Key='hello.txt')['Body'].read())")
    (directory / "www/txt").mkdir()
    (directory / "www/txt/hello.txt").write_text("hi\n")
    out = python(t, env, code, "boto3")
    assert out == "b'hi\\n'\n", out
    assert (directory / "put/put/object").stat().st_size == 2000000
    assert "PUT /put/object" in (directory / "access.log").read_text()


def test_node_fetch(t):
    """Node 22's fetch, https and http, the latter through a tunnel"""
    found = node() or t.skip("there is no Node 22")
    s, env, _ = start(t)
    code = "const r = await fetch('https://www.test/private'); console.log(r.status, await r.text())"
    out = run([found[0], "--input-type=module", "-e", code], env)
    assert out == "200 welcome\n\n", out


def test_node_https(t):
    """Node 22's https module"""
    found = node() or t.skip("there is no Node 22")
    s, env, _ = start(t)
    code = ("import https from 'node:https'; https.get('https://www.test/private', { agent: new https.Agent({ proxyEnv: process.env }) },"
            " r => r.on('data', d => process.stdout.write(d)))")
    assert run([found[0], "--input-type=module", "-e", code], env) == "welcome\n"


def test_undici(t):
    """undici's EnvHttpProxyAgent, a POST with a stream"""
    found = node() or t.skip("there is no Node 22")
    s, env, directory = start(t)
    code = ("import { EnvHttpProxyAgent, request } from 'undici'; import { Readable } from 'node:stream';\n"
            "const dispatcher = new EnvHttpProxyAgent();\n"
            "for (let i = 0; i < 3; i++) { const r = await request('https://www.test/put/u' + i,"
            " { dispatcher, method: 'PUT', body: Readable.from(['a'.repeat(100000), 'b']) }); console.log(r.statusCode); await r.body.dump() }\n"
            "await dispatcher.close()")
    script = found[1] / f"case-{s.dir.name}.mjs"
    script.write_text(code)
    try:
        assert run([found[0], script], env).split() == ["201"] * 3
    finally:
        script.unlink()
    assert (directory / "put/put/u2").stat().st_size == 100001


def test_env_placeholder(t):
    """a placeholder stands in the sandbox, the credential goes upstream, and the placeholder never does"""
    t.need("curl")
    s, env, _ = start(t, credential={"name": "www", "type": "bearer", "host": "www.test", "env": "WWW_TOKEN",
                                     "secrets": {"token": TOKEN}, "fields": {"scrub": "off"}})
    placeholder = env["WWW_TOKEN"]
    assert placeholder and placeholder != TOKEN
    out = run(["curl", "-sS", "-H", f"Authorization: Bearer {placeholder}", "https://www.test/whoami"], env)
    assert out == f"auth=Bearer {TOKEN} key= host=www.test method=GET\n", out
    s.cli("credential", "set", "www", "scrub=text")      # as it is unless said: what the server repeats is the placeholder again
    out = run(["curl", "-sS", "-H", f"Authorization: Bearer {placeholder}", "https://www.test/whoami"], env)
    assert out == f"auth=Bearer {placeholder} key= host=www.test method=GET\n", out


def serve_websockets(t, s, handler, **options):
    """A WebSocket server with TLS on a thread -> its port. options: of websockets.serve."""
    try:
        import websockets
    except ImportError:
        t.skip("Python has no websockets")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sallyport.certs() / "ok.pem")
    ready, port = threading.Event(), []

    def work():
        async def main():
            async with websockets.serve(handler, "127.0.0.1", 0, ssl=context, max_size=None, **options) as server:
                port.append(server.sockets[0].getsockname()[1])
                ready.set()
                await asyncio.sleep(120)
        asyncio.run(main())
    threading.Thread(target=work, daemon=True).start()
    assert ready.wait(10)
    return port[0]


def websocket_proxy(t, **options):
    seen = []

    async def handler(ws, *_):
        seen.append(ws.request_headers.get("Authorization"))
        async for message in ws:
            await ws.send(message)
    s = t.bare()
    s.init()
    s.credential({"name": "ws", "type": "bearer", "host": "www.test", "secrets": {"token": TOKEN}})
    s.agent()
    port, listen = serve_websockets(t, s, handler, **options), free_port()
    s.cli("set", "listen", f"127.0.0.1:{listen}")
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"www.test:443:127.0.0.1:{port}",
            listen=f"127.0.0.1:{listen}")
    return s, environment(s), seen


def test_websocket_python(t):
    """a WebSocket between Python's client and server, with messages of 1 MiB"""
    s, env, seen = websocket_proxy(t)
    import websockets
    wire = s.connect()
    wire.send(f"CONNECT www.test:443 HTTP/1.1\r\nHost: www.test:443\r\n{s.auth()}\r\n".encode())
    assert b" 200 " in wire.recv()
    wire.sock.setblocking(True)
    context = ssl.create_default_context(cafile=s.ca)

    async def talk():
        sock = wire.sock
        sock.setblocking(False)
        async with websockets.connect("wss://www.test/", sock=sock, ssl=context, server_hostname="www.test", max_size=None) as ws:
            for message in ["hello", b"\0" * 1_000_000, "x" * 1_000_000]:
                await ws.send(message)
                assert await asyncio.wait_for(ws.recv(), 20 * sallyport.SLOW) == message
    asyncio.run(talk())
    assert seen == [f"Bearer {TOKEN}"], seen
    s.wait_record({"host": "www.test", "status": 101})


def test_websocket_node(t):
    """a WebSocket from Node's ws through an HTTP CONNECT of its own"""
    found = node() or t.skip("there is no Node 22")
    s, env, seen = websocket_proxy(t)
    code = """
import WebSocket from 'ws'; import http from 'node:http'; import tls from 'node:tls';
const u = new URL(process.env.HTTPS_PROXY);
const req = http.request({ host: u.hostname, port: u.port, method: 'CONNECT', path: 'www.test:443', headers: { host: 'www.test:443',
  'proxy-authorization': 'Basic ' + Buffer.from(u.username + ':' + u.password).toString('base64') } });
req.on('connect', (res, socket) => {
  const ws = new WebSocket('wss://www.test/', { createConnection: () => tls.connect({ socket, servername: 'www.test' }) });
  ws.on('open', () => ws.send('a'.repeat(100000)));
  ws.on('message', m => { console.log(m.length); ws.close() });
  ws.on('close', () => process.exit(0));
});
req.end();
"""
    script = found[1] / f"case-{s.dir.name}.mjs"
    script.write_text(code)
    try:
        assert run([found[0], script], env) == "100000\n"
    finally:
        script.unlink()
    assert seen == [f"Bearer {TOKEN}"], seen


def test_websocket_chromium(t):
    """Chromium's page has a WebSocket in the HTTP/2 connection that brought it (RFC 8441), in text and in bytes, and closes it"""
    if not shutil.which("chromium") or not (NPM / "playwright-core").exists():
        t.skip("chromium or playwright-core is not installed")

    async def page(path, fields):
        return None if path == "/chat" else (http.HTTPStatus.OK, [("Content-Type", "text/html")], b"<title>page</title>")
    s, env, seen = websocket_proxy(t, process_request=page)
    code = """
import { createRequire } from 'node:module';
const { chromium } = createRequire(process.argv[2] + '/x.js')('playwright-core');
const [server, password] = process.argv.slice(4);
const browser = await chromium.launch({ executablePath: process.argv[3], args: ['--no-sandbox', '--disable-gpu', '--ignore-certificate-errors'], proxy: { server, username: 'x', password } });
let page;
for (let tries = 0; ; tries++) {        // a machine that pauses for 2 s between 407 and the next CONNECT has closed the connection
  page = await browser.newPage();       // not that in which the error is shown: that would end the next try
  try { await page.goto('https://www.test/'); break; } catch (e) { console.error(String(e)); if (tries === 3) throw e; }
}
console.log(JSON.stringify(await page.evaluate(() => new Promise((done) => {
  const ws = new WebSocket('wss://www.test/chat'), got = [performance.getEntries()[0].nextHopProtocol];
  ws.binaryType = 'arraybuffer';
  ws.onopen = () => { ws.send('a'.repeat(100000)); ws.send(new Uint8Array(70000)); };
  ws.onmessage = (m) => { got.push(m.data.length ?? m.data.byteLength); if (got.length === 3) ws.close(1000, 'done'); };
  ws.onclose = (e) => done([...got, e.code, e.wasClean]);
}))));
await browser.close();
"""
    script = s.dir / "page.mjs"
    script.write_text(code)
    r = subprocess.run([node()[0], script, NPM, shutil.which("chromium"), f"http://127.0.0.1:{s.port}", s.tokens["a"]], capture_output=True, text=True, timeout=90 * sallyport.SLOW)
    assert r.returncode == 0 and json.loads(r.stdout) == ["h2", 100000, 70000, 1000, True], r
    assert seen == [f"Bearer {TOKEN}"], seen
    s.wait_record({"host": "www.test", "status": 101, "h2": True})


def test_sse(t):
    """an event stream reaches curl event by event"""
    t.need("curl")
    s, up = t.proxy(credentials=[{"name": "api", "type": "bearer", "secrets": {"token": TOKEN}}], upstream={
        "reply": {"steps": ["HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", "data: 1\n\n", 2, "data: 2\n\n", {"close": True}]}})
    p = subprocess.Popen(["curl", "-sSN", "--cacert", s.ca, "-x", s.proxy_url(), "https://api.test/events"], stdout=subprocess.PIPE)
    import time
    began = time.monotonic()
    assert p.stdout.readline() == b"data: 1\n"
    assert time.monotonic() - began < 1.5 * sallyport.SLOW, "the first event waited for the second"
    assert p.stdout.read() == b"\ndata: 2\n\n"
    assert p.wait(10) == 0


def test_407_then_token(t):
    """a client that sends its token only when asked uses the same connection"""
    t.need("curl")
    s, env, _ = start(t)
    out = subprocess.run(["curl", "-sSv", "--proxy-anyauth", "https://www.test/private"], env=env, capture_output=True, text=True,
                         timeout=30)
    assert out.stdout == "welcome\n", out.stderr
    assert "407" in out.stderr and out.stderr.count("CONNECT www.test:443") == 2, out.stderr
    assert out.stderr.count("Connected to 127.0.0.1") + out.stderr.count("Trying 127.0.0.1") <= 2, out.stderr
