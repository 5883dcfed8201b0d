"""Secrets from elsewhere: exec:NAME, of helper programs, and file:PATH."""
import base64
import json
import os
import re
import subprocess
import time

import sallyport
from real import wait

from command_test import arrange, together

COUNTING = """#!/bin/sh
echo run >> {log}
{line}
"""


OK = {"reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"}    # an echo would be scrubbed, which has a limit of hits


def start(t, programs, *words, upstream=OK, workers=1):
    """a server with a credential whose token is `words`"""
    s, up = arrange(t, programs, upstream=upstream, workers=workers, serve=False)
    s.cli("set", "helpers", s.folder)
    s.added = s.cli("credential", "add", "c", "--type", "bearer", "--host", "api.test", *words)
    s.serve(*s.flags)
    return s, up


def bearer(up, at=-1):
    return up.requests[at].get("authorization")


def test_exec(t):
    """a program's output goes out, once for all who wait; it is nowhere else, and an answer that repeats it is scrubbed"""
    s, up = arrange(t, {"op": ""}, serve=False, upstream={"reply": "echo"})
    log = s.dir / "runs"
    (s.folder / "op").write_text(COUNTING.format(log=log, line='sleep 0.3; printf "canary-elsewhere-%s\\n" "$2"'))
    s.canaries += ["canary-elsewhere-two words"]
    s.cli("set", "helpers", s.folder)
    said = s.cli("credential", "add", "c", "--type", "bearer", "--host", "api.test", "token=exec:op op://a/b 'two words'", "ttl=1h").stderr
    assert "cannot be had" not in said, said
    assert log.read_text() == "run\n"           # the command looked whether it can be had
    s.serve(*s.flags)
    assert b"canary" not in b"".join(together(s))
    assert len(up.requests) == 8 and log.read_text() == "run\nrun\n"
    assert {bearer(up, i) for i in range(8)} == {"Bearer canary-elsewhere-two words"}
    shown = s.cli("credential", "show", "c").stdout
    assert "exec:op op://a/b 'two words'" in shown and "kept for 1h" in shown and "canary" not in shown, shown
    shown = json.loads(s.cli("credential", "show", "c", "--json").stdout)
    assert shown["from"] == {"token": "exec:op op://a/b 'two words'"} and shown["ttl"] == 3600 and shown["secrets"] == ["token"]
    r = s.cli("doctor", check=False)
    assert "1 secret lies elsewhere, and can be had" in r.stdout, r.stdout
    r = s.cli("credential", "test", "c", "https://api.test/x")
    assert "authorization" in r.stdout
    up.reset(OK)
    # another change of the record leaves the source, and needs no program
    before = log.read_text()
    s.cli("credential", "set", "c", "--path", "/x")
    assert s.request(target="/x").status == 200 and log.read_text() == before
    # a literal value replaces it
    s.cli("credential", "set", "c", "token=-", stdin="canary-literal")
    s.canaries.append("canary-literal")
    r = s.request(target="/x")
    assert r.status == 200 and bearer(up) == "Bearer canary-literal", (r.status, r.body, bearer(up))
    assert "from" not in json.loads(s.cli("credential", "show", "c", "--json").stdout)


def test_again(t):
    """fetched again after its ttl, and after a 401"""
    s, up = start(t, {"op": "#!/bin/sh\necho canary-elsewhere-1\n"}, "token=exec:op", "ttl=1s")
    refusal = {"reply": ["HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", OK["reply"]]}
    s.canaries += ["canary-elsewhere-%d" % i for i in (1, 2, 3)]
    assert s.request().status == 200 and bearer(up) == "Bearer canary-elsewhere-1"
    (s.folder / "op").write_text("#!/bin/sh\necho canary-elsewhere-2\n")
    wait(lambda: s.request().status == 200 and bearer(up) == "Bearer canary-elsewhere-2", 10)
    s.cli("credential", "set", "c", "ttl=1h")
    assert s.request().status == 200
    (s.folder / "op").write_text("#!/bin/sh\necho canary-elsewhere-3\n")
    assert s.request().status == 200 and bearer(up) == "Bearer canary-elsewhere-2"
    up.reset(refusal)
    assert s.request().status == 401
    wait(lambda: s.request().status == 200 and bearer(up) == "Bearer canary-elsewhere-3", 5)
    # at most once in ten seconds: an agent that provokes 401s does not make the program run
    (s.folder / "op").write_text("#!/bin/sh\necho canary-elsewhere-1\n")
    up.reset(refusal)
    assert s.request().status == 401
    assert s.request().status == 200 and bearer(up) == "Bearer canary-elsewhere-3"


def test_type_that_takes_it_no_more(t):
    """a value that is kept, and a later version of its type that does not take it: the refusal has none of the type's words"""
    s, up = arrange(t, {"op": "#!/bin/sh\necho canary-elsewhere-1\n"}, serve=False)
    s.cli("set", "helpers", s.folder)
    picky = s.dir / "picky.lua"
    text = s.cli("policy", "show", "bearer").stdout.replace('"bearer"', '"picky"')
    picky.write_text(text)
    s.cli("policy", "put", picky)
    s.cli("credential", "add", "c", "--type", "picky", "--host", "api.test", "token=exec:op", "ttl=1h")
    s.canaries.append("canary-elsewhere-1")
    s.serve(*s.flags)
    assert s.request().status == 200
    picky.write_text(text.replace("  apply ", '  validate = function() return nil, "token", "is of a kind that was given up" end,\n  apply ', 1))
    assert picky.read_text() != text
    s.cli("policy", "put", picky)
    for _ in range(2):
        r = s.request()
        assert r.status == 502 and "its secret comes from elsewhere, and its type does not take it" in r.body.decode(), r.body
    picky.write_text(text)
    s.cli("policy", "put", picky)
    wait(lambda: s.request().status == 200)


def test_another_each_time(t):
    """a program that prints another value each time: what is kept counts for its ttl"""
    s, up = start(t, {"op": "#!/bin/sh\necho canary-$$\n"}, "token=exec:op", "ttl=1h")
    for _ in range(4):
        assert s.request().status == 200
    assert len({bearer(up, i) for i in range(4)}) == 1
    s.canaries.append(bearer(up).split(" ")[1])


BAD = {
    "hang": ("exec sleep 1h", "did not end in time", 503),
    "much": ("head -c 70000 /dev/zero | tr '\\0' x", "more than 64 KiB", 502),
    "nothing": ("exit 0", "nothing in it", 502),
    "newline": ("echo", "nothing in it", 502),
    "dies": ("kill -9 $$", "failed", 502),
    "fails": ("echo canary-half; exit 3", "failed", 502),
    "lines": ("printf 'canary-half\\nmore'", "control byte", 502),
    "nul": ("printf 'canary-half\\0more'", "control byte", 502),
}


def test_programs_that_fail(t):
    """hang, print too much, print nothing, die: refused with a reason, never the old value, never a half; then it is mended"""
    s, up = arrange(t, {n: "#!/bin/sh\n" + text + "\n" for n, (text, _, _) in BAD.items()}, serve=False)
    (s.folder / "unsafe").write_text("#!/bin/sh\necho canary-half\n")
    (s.folder / "unsafe").chmod(0o777)
    (s.folder / "link").symlink_to(s.folder / "unsafe")
    s.cli("set", "helpers", s.folder)
    cases = dict(BAD, unsafe=("", "may be written to by other users", 502), link=("", "no such program", 502), absent=("", "no such program", 502))
    for name, (_, word, _) in cases.items():
        if name == "hang":      # the command would wait as long
            continue
        r = s.cli("credential", "add", name, "--type", "bearer", "--host", name + ".test", f"token=exec:{name}")
        assert f"note: token cannot be had now" in r.stderr and word in r.stderr, (name, r.stderr)
    s.serve(*s.flags)
    s.canaries.append("canary-half")
    for name, (_, word, status) in cases.items():
        if name == "hang":
            continue
        r = s.request(host=name + ".test")
        assert r.status == status and word in r.body.decode() and name + ".test" not in r.body.decode(), (name, r.status, r.body)
        assert b"canary" not in r.body and str(s.folder).encode() not in r.body, r.body
    assert not up.requests
    assert "ev=elsewhere credential=fails field=token err=command_failed" in s.log() and "it ended with 3" in s.log(), s.log()
    (s.folder / "fails").write_text("#!/bin/sh\necho canary-mended\n")
    s.canaries.append("canary-mended")
    r = s.cli("doctor", check=False)
    assert "much: its token (exec:much) cannot be had: its program printed more than 64 KiB" in r.stdout, r.stdout
    assert "fails: its token" not in r.stdout, r.stdout


def test_hang(t):
    """a program that hangs is ended, and others go on meanwhile"""
    if "asan" in t.binary:
        t.skip("it takes ten seconds, and runs on the plain build")
    s, up = start(t, {"op": "#!/bin/sh\necho x\n", "well": "#!/bin/sh\necho canary-well\n"}, "token=exec:well", "ttl=1h")
    s.canaries.append("canary-well")
    s.cli("credential", "set", "c", "token=exec:op")
    s.cli("credential", "add", "d", "--type", "bearer", "--host", "api.test", "--path", "/well", "token=exec:well")
    (s.folder / "op").write_text("#!/bin/sh\nexec sleep 1h\n")
    (w := s.tunnel()).send(b"GET /x HTTP/1.1\r\nHost: api.test\r\n\r\n")
    began = time.monotonic()
    assert s.request(target="/well").status == 200 and time.monotonic() - began < 5 * sallyport.SLOW
    up.requests.clear()
    got = w.recv(20 * sallyport.SLOW)
    assert got.startswith(b"HTTP/1.1 503") and b"did not end in time" in got and b"Retry-After" in got, got
    assert not up.requests


def test_files(t):
    """file:PATH: read anew after its ttl; not through what others may write to or read; not a pipe"""
    s, up = arrange(t, {}, serve=False, upstream=OK)
    folder = s.dir / "secrets"
    folder.mkdir(mode=0o700)
    file = folder / "token"
    file.write_text("canary-file-1\n")
    file.chmod(0o600)
    s.canaries += ["canary-file-1", "canary-file-2"]
    r = s.cli("credential", "add", "c", "--type", "bearer", "--host", "api.test", f"token=file:{file}", "ttl=1s")
    assert "cannot be had" not in r.stderr
    s.serve(*s.flags)
    assert s.request().status == 200 and bearer(up) == "Bearer canary-file-1"
    file.write_text("canary-file-2\n")
    wait(lambda: s.request().status == 200 and bearer(up) == "Bearer canary-file-2", 10)
    sent = len(up.requests)

    def refused(word):
        s.cli("credential", "set", "c", f"token=file:{file}x")      # another source: nothing is kept, no pause counts
        assert s.request().status == 502
        s.cli("credential", "set", "c", f"token=file:{file}")
        r = s.request()
        assert r.status == 502 and word in r.body.decode() and str(folder) not in r.body.decode(), r.body

    for mode in (0o644, 0o640, 0o604, 0o622, 0o660, 0o602):
        file.chmod(mode)
        refused("open to other users")
    file.chmod(0o600)
    folder.chmod(0o777)
    refused("open to other users")
    folder.chmod(0o700)
    file.unlink()
    refused("not there")
    os.mkfifo(file, 0o600)
    refused("cannot be read")
    file.unlink()
    file.mkdir(mode=0o700)
    refused("cannot be read")
    file.rmdir()
    file.write_text("")
    file.chmod(0o600)
    refused("nothing in it")
    file.write_text("x" * 70000)
    refused("too large")
    if os.geteuid() == 0:
        file.write_text("canary-file-2")
        os.chown(file, 65534, -1)
        refused("open to other users")
        os.chown(file, 0, -1)
        (folder / "inner").mkdir(mode=0o700)
        os.chown(folder / "inner", 65534, -1)
        (folder / "inner" / "t").write_text("canary-file-2")
        file.unlink()
        file.symlink_to(folder / "inner" / "t")
        refused("open to other users")
        # a link to a file that nobody else can touch, in a folder where another user may make it lead elsewhere
        (folder / "inner" / "t").unlink()
        (folder / "safe").write_text("canary-file-2")
        (folder / "safe").chmod(0o600)
        link = folder / "inner" / "link"
        link.symlink_to("../safe")
        s.cli("credential", "set", "c", f"token=file:{link}")
        r = s.request()
        assert r.status == 502 and "open to other users" in r.body.decode(), r.body
    file.unlink(missing_ok=True)
    (folder / "real").write_text("canary-file-2")
    (folder / "real").chmod(0o600)
    file.symlink_to("real")            # as Kubernetes mounts them
    assert len(up.requests) == sent
    s.cli("credential", "set", "c", f"token=file:{file}x")
    assert s.request().status == 502
    s.cli("credential", "set", "c", f"token=file:{file}")
    assert s.request().status == 200 and bearer(up) == "Bearer canary-file-2"


def test_kinds(t):
    """headers, maps' members, documents that are taken apart: any secret field"""
    s, up = arrange(t, {"op": '#!/bin/sh\necho "canary-$1-value"\n'}, serve=False)
    s.canaries += ["canary-one-value", "canary-two-value"]
    s.cli("set", "helpers", s.folder)
    s.cli("credential", "add", "c", "--type", "basic", "--host", "api.test", "username=me", "password=exec:op one", "headers.X-Team=exec:op two")
    s.serve(*s.flags)
    assert s.request().status == 200
    assert bearer(up) == "Basic " + base64.b64encode(b"me:canary-one-value").decode() and up.requests[-1].get("x-team") == "canary-two-value"
    for bad in ("password=exec:", "password=exec:../op", "password=exec:/bin/sh", "password=exec:op 'x", "password=file:relative", "username=exec:op"):
        r = s.cli("credential", "set", "c", bad, check=False)
        assert (r.returncode == 2) == bad.startswith("password"), (bad, r)
    assert json.loads(s.cli("credential", "show", "c", "--json").stdout)["fields"]["username"] == "exec:op"     # no secret: a text
    assert s.cli("credential", "set", "c", "ttl=0s", check=False).returncode == 2
    assert s.cli("credential", "set", "c", "--clear", "headers.x-team").returncode == 0
    assert json.loads(s.cli("credential", "show", "c", "--json").stdout)["from"] == {"password": "exec:op one"}


STAND_INS = {       # what these programs' documentation says that they print
    "op": '[ "$1 $2 $3" = "read --no-newline op://agents/github/token" ] && [ "$OP_SERVICE_ACCOUNT_TOKEN" = own-op ] && printf canary-op-value',
    "vault": '[ "$1 $2 $3 $4" = "kv get -field=token secret/github" ] && [ "$VAULT_TOKEN" = own-vault ] && [ -n "$VAULT_ADDR" ] && printf canary-vault-value',
    "aws": '[ "$1 $2 $3 $4 $5 $6 $7 $8" = "secretsmanager get-secret-value --secret-id prod/github --query SecretString --output text" ] && [ -n "$AWS_DEFAULT_REGION" ] && echo canary-aws-value',
    "systemd-creds": '[ "$1 $2 $4" = "decrypt --name=gh -" ] && [ "$3" = /etc/credstore.encrypted/gh ] && printf canary-systemd-value',
    "gcloud": '[ "$1 $2 $3" = "auth print-access-token --quiet" ] && [ -n "$CLOUDSDK_CONFIG" ] && echo canary-gcloud-value',
    "gh": '[ "$1 $2 $3 $4" = "auth token --hostname github.com" ] && [ -n "$GH_CONFIG_DIR" ] && echo canary-gh-value',
}
USES = {"op": "op op://agents/github/token", "vault": "vault secret/github token", "aws-secret": "aws-secret prod/github",
        "systemd-credential": "systemd-credential gh", "gcloud-token": "gcloud-token", "gh-token": "gh-token"}


def test_helpers_of_the_manual(t):
    """the manual's helpers run, with stand-ins of 1Password, Vault, AWS, systemd, gcloud and gh"""
    s, up = arrange(t, {}, serve=False, upstream=OK)
    tools, own = s.dir / "tools", s.dir / "own"
    tools.mkdir()
    own.mkdir()
    for name, text in STAND_INS.items():
        (tools / name).write_text("#!/bin/sh\n" + text + "\n")
        (tools / name).chmod(0o755)
    for name in ("op", "vault"):
        (own / f"{name}-token").write_text(f"own-{name}\n")
    found = {}
    for text in re.findall(r"```\n(#!/bin/sh\n# .*?)```", s.cli("help", "elsewhere").stdout, re.S):
        name = re.match(r"#!/bin/sh\n# ([\w-]+):", text).group(1)
        found[name] = text
        assert len(text.splitlines()) <= 10
        (s.folder / name).write_text(text.replace("PATH=/usr", f"PATH={tools}:/usr", 1).replace("/etc/sallyport", str(own)))
        (s.folder / name).chmod(0o755)
    assert set(found) == set(USES), found.keys()
    s.cli("set", "helpers", s.folder)
    for name, use in USES.items():
        r = s.cli("credential", "add", name, "--type", "bearer", "--host", f"{name}.test", f"token=exec:{use}")
        assert "cannot be had" not in r.stderr, r.stderr
    flags = [x for n in USES for x in ("--connect-to", f"{n}.test:443:127.0.0.1:{up.port}")]
    s.serve(*s.flags, *flags)
    for name in USES:
        s.request(host=f"{name}.test")
    want = {"op": "op", "vault": "vault", "aws-secret": "aws", "systemd-credential": "systemd", "gcloud-token": "gcloud", "gh-token": "gh"}
    s.canaries += [f"canary-{v}-value" for v in want.values()]
    r = s.cli("doctor", check=False)
    assert "6 secrets lie elsewhere, and can be had" in r.stdout, r.stdout


def test_documents(t):
    """a document that is taken apart, and one that cannot be had yet"""
    t.need("openssl")
    s, up = arrange(t, {}, serve=False, upstream=OK)
    folder = s.dir / "secrets"
    folder.mkdir(mode=0o700)
    pem = subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], capture_output=True, text=True, check=True).stdout
    s.canaries.append(pem.splitlines()[3])
    key = {"type": "service_account", "client_email": "a@b.iam.gserviceaccount.com", "private_key": pem, "private_key_id": "1",
           "token_uri": "https://oauth2.googleapis.com/token", "project_id": "p", "client_id": "1"}
    file = folder / "key.json"
    add = ("credential", "add", "g", "--type", "gcp_access_token", "--host", "api.test", f"key=file:{file}")
    assert "note: key cannot be had now" in s.cli(*add).stderr
    s.serve(*s.flags, "--connect-to", f"oauth2.googleapis.com:443:127.0.0.1:{up.port}")
    r = s.request()
    assert r.status == 502 and "its file is not there" in r.body.decode(), r.body
    s.cli("credential", "remove", "g")
    file.write_text("{}")
    file.chmod(0o600)
    r = s.cli(*add, check=False)
    assert r.returncode == 1 and "is not the document that it should be" in r.stderr, r.stderr
    file.write_text(json.dumps(key))
    assert "cannot be had" not in s.cli(*add).stderr
    shown = json.loads(s.cli("credential", "show", "g", "--json").stdout)
    assert shown["from"] == {"key": f"file:{file}"} and "split" not in shown and shown["secrets"] == ["key"], shown
    r = s.request()
    assert r.status in (502, 503) and "comes from elsewhere" not in r.body.decode(), r.body     # its token endpoint was asked, and answers nonsense
    assert s.cli("explain", "GET", "https://api.test/", check=False).returncode == 0
