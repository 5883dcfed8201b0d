"""git against git http-backend behind nginx, with a `basic` credential that the sandbox never has."""
import os
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


def served(t, *flags):
    """-> the proxy, the environment of its client, the folder of the server's repository"""
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
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"git.test:443:127.0.0.1:{upstream}", *flags,
            listen=f"127.0.0.1:{port}")
    env = {**environment(s), "GIT_TERMINAL_PROMPT": "0", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
           "GIT_COMMITTER_EMAIL": "a@b"}
    return s, env, directory / "www/repo.git"


def test_clone_and_push(t):
    """clone, commit, push 3 MB, clone again"""
    s, env, _ = served(t)
    one, two = s.dir / "one", s.dir / "two"
    run(["git", "clone", "-q", "https://git.test/repo.git", one], env)
    import random
    (one / "data").write_bytes(random.Random(1).randbytes(3_000_000))
    run(["git", "add", "data"], env, cwd=one)
    run(["git", "commit", "-q", "-m", "data"], env, cwd=one)
    run(["git", "push", "-q", "origin", "HEAD:main"], env, cwd=one)
    run(["git", "clone", "-q", "-b", "main", "https://git.test/repo.git", two], env)
    assert (two / "data").read_bytes() == (one / "data").read_bytes()
    r = s.wait_record({"host": "git.test", "credential": "git", "method": "POST", "status": 200})
    assert not r.get("h2"), "libcurl 7.84 to 8.1 may ask git for more behind the end of a push's body over HTTP/2, and git waits for ever"
    # without the credential the server refuses
    s.cli("credential", "disable", "git")
    r = subprocess.run(["git", "ls-remote", "https://git.test/repo.git"], env=env, capture_output=True, text=True, timeout=60 * sallyport.SLOW)
    assert r.returncode != 0


def refs(repo):
    out = subprocess.run(["git", "-C", repo, "for-each-ref", "--format=%(refname)"], capture_output=True, text=True, timeout=60 * sallyport.SLOW).stdout
    return set(out.split())


def test_branches(t):
    """git_branches: each ref of a push has to be allowed, and git says which rule refused it; packs stream, however large"""
    s, env, repo = served(t)
    run(["git", "-C", repo, "config", "receive.advertisePushOptions", "true"], env)
    one = s.dir / "one"
    run(["git", "clone", "-q", "https://git.test/repo.git", one], env)

    def commit(text):
        (one / "data").write_bytes(text)
        run(["git", "add", "data"], env, cwd=one)
        run(["git", "commit", "-q", "-m", "data"], env, cwd=one)

    def push(*args, cwd=one, config=()):
        more = [x for c in config for x in ("-c", c)]
        r = subprocess.run(["git", *more, "push", *args], env=env, cwd=cwd, capture_output=True, text=True, timeout=60 * sallyport.SLOW)
        return r.returncode == 0, f"{r.returncode} {r.stderr}"

    def refused(said, why, *which):
        good, text = said
        assert not good, (why, which)
        assert f"(rule pushes: {why})" in text and "RPC failed" not in text and "disconnect" not in text, f"TEXT {why} {text!r}"
        for ref in which:
            assert f"! [remote rejected] {ref}" in text, repr(text)

    commit(b"0")
    assert push("origin", "HEAD:main")[0]
    s.cli("set", "body-max", "64k")     # what is over it cannot have been read whole
    s.cli("rule", "add", "pushes", "--type", "git_branches", "refs=agent/*,main,refs/tags/*", "protected=main", "moves=allow")
    import random
    commit(random.Random(2).randbytes(3_000_000))
    for config in ((), ("http.postBuffer=1000",)):       # chunked, after a probe
        refused(push("origin", "HEAD:main", config=config), "this push may not move refs/heads/main", "HEAD -> main")
        tip = run(["git", "rev-parse", "HEAD~1"], env, cwd=one)
        assert run(["git", "-C", repo, "rev-parse", "main"], env) == tip
        assert push("origin", f"HEAD:agent/x{len(config)}", config=config)[0]
    refused(push("origin", "HEAD:other"), "refs/heads/other may not be pushed to", "HEAD -> other")
    refused(push("origin", "HEAD:refs/for/main"), "refs/for/main may not be pushed to")
    # one of several, wherever it stands, and nothing of the push is done
    commit(b"1")
    for more in ((), ("--atomic",)):
        for order in (("HEAD:agent/y", "HEAD:main"), ("HEAD:main", "HEAD:agent/y")):
            refused(push(*more, "origin", *order), "this push may not move refs/heads/main", "HEAD -> agent/y", "HEAD -> main")
    refused(push("--force", "origin", "HEAD:agent/y", "+HEAD~1:main"), "this push may not move refs/heads/main")
    assert refs(repo) == {"refs/heads/main", "refs/heads/agent/x0", "refs/heads/agent/x1"}, refs(repo)
    refused(push("origin", ":agent/x0"), "this push may not delete refs/heads/agent/x0", "agent/x0")
    run(["git", "tag", "v1"], env, cwd=one)
    assert push("--atomic", "origin", "HEAD:agent/y", "v1")[0] and "refs/tags/v1" in refs(repo)
    refused(push("-o", "merge_request.create", "origin", "HEAD:agent/z"), "this push option is not allowed here")
    assert push("-o", "ci.skip", "origin", "HEAD:agent/z")[0]
    s.cli("rule", "set", "pushes", "deletes=allow")
    assert push("origin", ":agent/x0")[0] and "refs/heads/agent/x0" not in refs(repo)
    shallow = s.dir / "shallow"
    run(["git", "clone", "-q", "--depth", "1", "-b", "agent/z", "https://git.test/repo.git", shallow], env)
    run(["git", "commit", "-q", "--allow-empty", "-m", "more"], env, cwd=shallow)
    refused(push("--force", "origin", "HEAD:main", cwd=shallow), "this push may not move refs/heads/main")
    assert push("origin", "HEAD:agent/z", cwd=shallow)[0]
    r = s.wait_record({"decision": "deny", "reason": "rule pushes", "method": "POST", "status": 200, "error": "rule_denied"})
    assert r["credential"] == "git" and not s.leaks()


def test_branches_ask(t):
    """moves=ask: a push waits for a person, and goes on"""
    import threading
    s, env, repo = served(t)
    one = s.dir / "one"
    run(["git", "clone", "-q", "https://git.test/repo.git", one], env)
    run(["git", "commit", "-q", "--allow-empty", "-m", "0"], env, cwd=one)
    run(["git", "push", "-q", "origin", "HEAD:main"], env, cwd=one)
    s.cli("rule", "add", "pushes", "--type", "git_branches", "moves=ask")
    (one / "large").write_bytes(os.urandom(200 << 10))         # of a length that git says; what is over http.postBuffer, 1 MiB, it sends in chunks
    run(["git", "add", "large"], env, cwd=one)
    run(["git", "commit", "-q", "-m", "1"], env, cwd=one)
    done = []
    th = threading.Thread(target=lambda: done.append(subprocess.run(["git", "push", "-q", "origin", "HEAD:main"], env=env, cwd=one, capture_output=True,
                                                                    timeout=60 * sallyport.SLOW)))
    th.start()
    import json
    found = []
    wait(lambda: found.extend(json.loads(s.cli("approval", "list", "--json").stdout)) or found, 10, "a question")
    assert found[0]["reason"] == "this push would move refs/heads/main", found
    s.cli("approval", "allow", found[0]["id"])
    th.join(30)
    assert done[0].returncode == 0, done
    s.cli("set", "approval-wait", "1s")
    (one / "large").write_bytes(os.urandom(3 << 20))
    run(["git", "commit", "-q", "-am", "2"], env, cwd=one)
    r = subprocess.run(["git", "push", "origin", "HEAD:main"], env=env, cwd=one, capture_output=True, text=True, timeout=60 * sallyport.SLOW)
    assert r.returncode != 0 and "nobody answered within 1s" in r.stderr and "remote: the question" in r.stderr, r.stderr
    found = [q for q in json.loads(s.cli("approval", "list", "--json").stdout) if q["state"] == "open"]
    s.cli("approval", "allow", found[0]["id"], "--for", "hour")
    run(["git", "push", "-q", "origin", "HEAD:main"], env, cwd=one)
    head = run(["git", "rev-parse", "HEAD"], env, cwd=one)
    assert run(["git", "ls-remote", "origin", "main"], env, cwd=one).split()[0] == head.strip()
