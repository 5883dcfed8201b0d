"""git against git http-backend behind nginx, with a `basic` credential that the sandbox never has."""
import subprocess

import sallyport
from clients_test import environment, run
from real import wait
from servers import free_port, nginx

CONF = """
    location ~ ^/repo\\.git/ {
      auth_basic git; auth_basic_user_file {dir}/htpasswd; fastcgi_pass unix:{dir}/cgi.sock;
      fastcgi_param SCRIPT_FILENAME /usr/lib/git-core/git-http-backend; fastcgi_param GIT_PROJECT_ROOT {dir}/www;
      fastcgi_param GIT_HTTP_EXPORT_ALL 1; fastcgi_param PATH_INFO $uri; fastcgi_param QUERY_STRING $query_string;
      fastcgi_param REQUEST_METHOD $request_method; fastcgi_param CONTENT_TYPE $content_type;
      fastcgi_param CONTENT_LENGTH $content_length; fastcgi_param REMOTE_USER $remote_user; fastcgi_param HTTP_CONTENT_ENCODING $http_content_encoding;
    }
"""


def test_clone_and_push(t):
    """clone, commit, push 3 MB, clone again"""
    t.need("git", "nginx", "fcgiwrap")
    s = t.bare()
    s.init()
    s.credential({"name": "git", "type": "basic", "host": "git.test", "fields": {"username": "builder"},
                  "secrets": {"password": "canary-git-93b1"}})
    s.agent()
    upstream, directory = nginx(t, s.dir, more=CONF)
    (directory / "htpasswd").write_text("builder:{PLAIN}canary-git-93b1\n")
    t.start(["fcgiwrap", "-s", f"unix:{directory}/cgi.sock"], directory / "cgi.log")
    wait((directory / "cgi.sock").exists, 5, "fcgiwrap's socket")
    plain = {"PATH": "/usr/bin:/bin", "HOME": str(s.dir)}
    run(["git", "init", "-q", "--bare", directory / "www/repo.git"], plain)
    run(["git", "-C", directory / "www/repo.git", "config", "http.receivepack", "true"], plain)
    port = free_port()
    s.cli("set", "listen", f"127.0.0.1:{port}")
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"git.test:443:127.0.0.1:{upstream}",
            listen=f"127.0.0.1:{port}")
    env = {**environment(s), "GIT_TERMINAL_PROMPT": "0", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
           "GIT_COMMITTER_EMAIL": "a@b"}
    one, two = s.dir / "one", s.dir / "two"
    run(["git", "clone", "-q", "https://git.test/repo.git", one], env)
    import random
    (one / "data").write_bytes(random.Random(1).randbytes(3_000_000))
    run(["git", "add", "data"], env, cwd=one)
    run(["git", "commit", "-q", "-m", "data"], env, cwd=one)
    run(["git", "push", "-q", "origin", "HEAD:main"], env, cwd=one)
    run(["git", "clone", "-q", "-b", "main", "https://git.test/repo.git", two], env)
    assert (two / "data").read_bytes() == (one / "data").read_bytes()
    s.wait_record({"host": "git.test", "credential": "git", "method": "POST", "status": 200})
    # without the credential the server refuses
    s.cli("credential", "disable", "git")
    r = subprocess.run(["git", "ls-remote", "https://git.test/repo.git"], env=env, capture_output=True, text=True)
    assert r.returncode != 0
