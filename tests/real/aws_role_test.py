"""An AWS role: STS is asked once, with a request that verifies, and the role's keys sign what follows; a clock that is
off is named; and the host table agrees with botocore's endpoints."""
import datetime
import json
import re
import subprocess
import time
import urllib.parse

import certs as certs_module
import sallyport
from aws_test import need_botocore, python
from clients_test import environment
from s3 import S3, Handler
from servers import free_port

ACCESS, SECRET = "AKIAREALKEY000000001", "canary-aws-wJalrXUtnFEMIK7MDENGbPxRfiCYREAL1"
ROLE = ("ASIAROLEKEY000000001", "canary-role-wJalrXUtnFEMIK7MDENGbPxRfiCYROLE", "canary-session-token//with+odd==")
ARN = "arn:aws:iam::123456789012:role/team/agent"
STS, API = "sts.eu-west-1.amazonaws.com", "sqs.eu-west-1.amazonaws.com"


class Sts(Handler):
    def act(self, note):
        form = dict(urllib.parse.parse_qsl(self.body.decode()))
        note["form"] = form
        assert self.headers["accept"] == "application/json", self.headers["accept"]
        if form["RoleArn"] != ARN or form.get("ExternalId") != "ext-1":
            return self.answer(403, b'{"Error":{"Code":"AccessDenied","Message":"canary-message","Type":"Sender"},"RequestId":"1"}',
                               kind="application/json")
        credentials = {"AccessKeyId": ROLE[0], "SecretAccessKey": ROLE[1], "SessionToken": ROLE[2],
                       "Expiration": int(time.time()) + int(form["DurationSeconds"]) + 0.5}
        self.answer(200, json.dumps({"AssumeRoleResponse": {"AssumeRoleResult": {
            "AssumedRoleUser": {"Arn": "arn:aws:sts::123456789012:assumed-role/agent/x", "AssumedRoleId": "A:x"},
            "Credentials": credentials}, "ResponseMetadata": {"RequestId": "1"}}}).encode(), kind="application/json")


class Late(Handler):
    """A server whose clock goes an hour behind, and which therefore refuses."""

    def date_time_string(self, timestamp=None):
        then = datetime.datetime.utcnow() - datetime.timedelta(hours=1)
        return then.strftime("%a, %d %b %Y %H:%M:%S GMT")

    def verify(self, note):
        from s3 import Refused
        raise Refused(403, "RequestTimeTooSkewed")


class World:
    def __init__(self, t, type_, servers, **fields):
        need_botocore(t)
        self.s = t.bare()
        self.s.init()
        self.s.canaries += [SECRET, *ROLE[1:], "canary-message"]
        self.s.credential({"name": "aws", "type": type_, "host": ["*.amazonaws.com"],
                           "fields": {"access_key_id": ACCESS, **fields}, "secrets": {"secret_access_key": SECRET}})
        self.s.agent()
        pem = certs_module.leaf(sallyport.certs(), self.s.dir, [STS, API])
        self.servers, to, port = {}, [], free_port()
        for host, keys, handler in servers:
            self.servers[host] = S3(*keys, pem=pem) if len(keys) == 2 else S3(*keys, pem)
            self.servers[host].http.RequestHandlerClass = handler
            to += ["--connect-to", f"{host}:443:127.0.0.1:{self.servers[host].port}"]
        self.s.cli("set", "listen", f"127.0.0.1:{port}")
        self.s.serve("--upstream-ca", sallyport.certs() / "root.pem", *to, listen=f"127.0.0.1:{port}")
        self.env = {**environment(self.s), "AWS_DEFAULT_REGION": "eu-west-1", "AWS_MAX_ATTEMPTS": "1", "AWS_EC2_METADATA_DISABLED": "true"}


def curl(w, *args):
    p = subprocess.run(["curl", "-s", "-w", "%{http_code}", *args], env=w.env, capture_output=True, text=True, timeout=60)
    return p.stdout


LIST = "import boto3; print(boto3.client('sqs').list_queues()['ResponseMetadata']['HTTPStatusCode'])"


def test_role(t):
    """a role is assumed once, with a signature that verifies; its keys sign, and no sandbox gets keys of its own"""
    w = World(t, "aws_assume_role", [(STS, (ACCESS, SECRET), Sts), (API, ROLE, Handler)],
              role_arn=ARN, external_id="ext-1", region="eu-west-1", duration=900)
    for _ in range(3):
        assert "200" in python(w, LIST)
    sts, api = w.servers[STS], w.servers[API]
    assert not sts.refused and not api.refused and not sts.broken and not api.broken, (sts.refused, api.refused, sts.broken, api.broken)
    assert len(sts.seen) == 1 and len(api.seen) == 3, (len(sts.seen), len(api.seen))
    assert sts.seen[0]["form"]["RoleSessionName"] == "sallyport" and sts.seen[0]["form"]["DurationSeconds"] == "900"
    assert (sts.seen[0]["service"], sts.seen[0]["region"]) == ("sts", "eu-west-1")
    for body in ("Action=AssumeRole&RoleArn=x", "Action=GetSessionToken"):
        out = curl(w, "-d", body, f"https://{STS}/")
        assert "mint_denied" in out and out.endswith("403"), out
    assert len(sts.seen) == 1


def test_role_denied(t):
    """a role that may not be assumed is a 502 that names the credential and STS's reason, and no text of STS's"""
    w = World(t, "aws_assume_role", [(STS, (ACCESS, SECRET), Sts), (API, ROLE, Handler)], role_arn=ARN, region="eu-west-1")
    out = curl(w, f"https://{API}/?Action=ListQueues")
    assert out.endswith("502") and "aws" in out and "access_denied" in out and "canary-message" not in out, out
    assert not w.servers[API].seen


def test_clock(t):
    """a clock that is off is named in the log and by doctor"""
    w = World(t, "aws_sigv4", [(API, (ACCESS, SECRET), Late)])
    assert curl(w, f"https://{API}/?Action=ListQueues").endswith("403")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        p = subprocess.run([str(t.binary), "--home", str(w.s.home), "doctor"], capture_output=True, text=True)
        if "clock is off by 60 minutes (ahead)" in p.stdout:
            break
        time.sleep(0.2)
    assert f"this machine's clock is off by 60 minutes (ahead), says {API}" in p.stdout, p.stdout
    log = (w.s.dir / "serve.log").read_text()
    assert re.search(r"ev=clock_off credential=aws host=\S+ hint=\"this machine's clock is off by 60 minutes\"", log), log


def test_hosts(t):
    """what a host is signed for agrees with botocore, for every service, region and variant that it knows"""
    need_botocore(t)
    import botocore.session
    session = botocore.session.get_session()
    resolver, loader = session.get_component("endpoint_resolver"), session.get_component("data_loader")
    want, odd = {}, 0
    # botocore signs these otherwise than their hosts are called by anybody else
    skip = {"iot", "codecatalyst"}
    for name in loader.list_available_services("service-2"):
        meta = loader.load_service_model(name, "service-2")["metadata"]
        prefix = meta["endpointPrefix"]
        if prefix in skip or meta.get("signatureVersion") not in ("v4", "s3", "s3v4"):
            continue
        for partition in resolver.get_available_partitions():
            regions = resolver.get_available_endpoints(prefix, partition, allow_non_regional=True)
            for region in regions:
                for variant in ({}, {"use_fips_endpoint": True}, {"use_dualstack_endpoint": True}):
                    try:
                        at = resolver.construct_endpoint(prefix, region, partition, **variant)
                    except Exception:
                        continue
                    host = at and at["hostname"]
                    if not host or ":" in host or "{" in host:
                        continue
                    real = re.fullmatch(r"[a-z]{2}[a-z]?[a-z]?(-gov|-iso|-isob)?-[a-z]+-\d", region) is not None
                    if not real and region in host.split("."):
                        continue        # a host made of a name that is no region: there is none
                    scope = at.get("credentialScope", {})
                    asked = scope.get("region") or (region if real else None)
                    # what Debian's botocore calls it: CreateTokenWithIAM came later, and with it another name
                    scope = {**scope, "service": "sso-oauth"} if meta.get("signingName") == "awsssooidc" else scope
                    if asked:
                        want.setdefault(host, set()).add((asked, scope.get("service") or meta.get("signingName", prefix)))
    script = t.bare()
    path = script.dir / "hosts.lua"
    path.write_text("local aws = require 'aws'\nlocal f = assert(require('host').read_file(arg and arg[1] or ..., 1 << 24))\n"
                    "for h in f:gmatch('%S+') do local a = aws.host(h) or {}; print(h, a.region, a.service) end\n")
    (script.dir / "hosts").write_text("\n".join(sorted(want)))
    out = subprocess.run([str(t.binary), "lua", str(path), str(script.dir / "hosts")], capture_output=True, text=True, timeout=120)
    got = {l.split("\t")[0]: tuple(l.split("\t")[1:]) for l in out.stdout.splitlines()}
    assert len(got) == len(want) > 3000, f"{len(got)} of {len(want)}: {out.stderr[-500:]}"
    wrong = [f"{h}: {got[h]}, not {sorted(want[h])}" for h in sorted(want) if got[h] not in want[h]]
    assert not wrong, f"{len(wrong)} of {len(want)}:\n" + "\n".join(wrong[:60])
