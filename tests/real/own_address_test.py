"""The guard and this machine's own global addresses, in a network namespace of its own: they change while it runs."""
import http.server
import pathlib
import socket
import subprocess
import sys
import threading
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent.parent)]
import sallyport  # noqa: E402

V4, V6, LATER = "93.184.216.34", "2a00:1:2:3::1", "93.184.216.99"


def test_own_addresses(t):
    """this machine's own global addresses and the IPv6 network it stands in are private, as they change, unless an entry
    allows them"""
    t.need("unshare", "ip")
    if subprocess.run(["unshare", "-rn", "ip", "link", "set", "lo", "up"], capture_output=True).returncode != 0:
        t.skip("no network namespace may be made here")
    r = subprocess.run(["unshare", "-rn", sys.executable, __file__, t.binary], capture_output=True, text=True, timeout=60 * sallyport.SLOW)
    assert r.returncode == 0 and r.stdout == "fine\n", (r.stdout, r.stderr)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"hi")

    def log_message(self, *_):
        pass


class Server6(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


def inside(binary):
    def ip(*args):
        subprocess.run(["ip", *args], check=True)

    def up(cls, address):
        threading.Thread(target=cls((address, 8080), Handler).serve_forever, daemon=True).start()
    ip("link", "set", "lo", "up")
    ip("addr", "add", V4 + "/32", "dev", "lo")
    ip("addr", "add", V6 + "/64", "dev", "lo", "nodad")
    up(http.server.ThreadingHTTPServer, V4)
    up(Server6, V6)
    s, upstream = sallyport.new(binary, serve=False)
    s.cli("domain", "add", "default", "*", "--port", "8080")
    s.serve()

    def ask(host):
        w = s.connect()
        w.send(f"GET http://{host}:8080/ HTTP/1.1\r\nHost: {host}:8080\r\nConnection: close\r\n{s.auth()}\r\n".encode())
        data = b""
        while part := w.recv(20):
            data += part
        return 200 if data.startswith(b"HTTP/1.1 200") else b"this machine's own" in data and b"address_blocked" in data
    for host in (V4, f"[{V6}]", "[2a00:1:2:3::77]", f"[::ffff:{V4}]"):
        assert ask(host) is True, host
    s.cli("domain", "add", "default", V4, "--port", "8080", "--address", V4 + "/32")
    assert ask(V4) == 200 and ask(f"[{V6}]") is True
    ip("addr", "add", LATER + "/32", "dev", "lo")
    up(http.server.ThreadingHTTPServer, LATER)
    time.sleep(1.5)
    assert ask(LATER) is True
    assert not s.stop()
    upstream.stop()
    s.clean()
    print("fine")


if __name__ == "__main__":
    inside(sys.argv[1])
