"""AWS's own clients with placeholder keys through the proxy, to a server that verifies every signature (s3.py)."""
import base64
import hashlib
import hmac
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import zlib

import certs as certs_module
import sallyport
from clients_test import environment, run
from peers import Wire, read_head
from s3 import S3, STREAMING
from servers import free_port, node

ACCESS, SECRET = "AKIAREALKEY000000001", "canary-aws-wJalrXUtnFEMIK7MDENGbPxRfiCYREAL1"
REGION = "us-east-1"
HOSTS = ["s3.us-east-1.amazonaws.com", "s3.amazonaws.com", "s3.eu-central-1.amazonaws.com",
         *[f"{b}.s3.us-east-1.amazonaws.com" for b in ("bucket", "jsbucket")], "bucket.s3.amazonaws.com",
         "s3.dualstack.us-east-1.amazonaws.com", "bucket.s3.dualstack.us-east-1.amazonaws.com",    # where minio-go goes
         "jsbucket.s3.amazonaws.com", "sts.us-east-1.amazonaws.com", "sts.amazonaws.com",
         "dynamodb.eu-central-1.amazonaws.com", "sqs.eu-central-1.amazonaws.com", "eu-central-1.queue.amazonaws.com",
         "minio.test", "queue.amazonaws.com", "iam.amazonaws.com", "lambda.eu-west-1.amazonaws.com", "monitoring.us-west-2.amazonaws.com"]


class Aws:
    """A proxy with one aws_sigv4 credential for all of Amazon in front of the verifying server."""

    def __init__(self, t, token=None, access=ACCESS, **spec):
        self.t = t
        need_botocore(t)
        self.s = t.bare()
        self.s.init()
        self.s.credential({"name": "aws", "type": "aws_sigv4", "host": ["*.amazonaws.com"],
                           "fields": {"access_key_id": access}, **spec,
                           "secrets": {"secret_access_key": SECRET, **({"session_token": token} if token else {})}})
        self.s.agent()
        pem = certs_module.leaf(sallyport.certs(), self.s.dir, HOSTS)
        self.server, self.plain = S3(access, SECRET, token, pem), S3(access, SECRET, token)
        self.plain.objects, self.plain.uploads = self.server.objects, self.server.uploads
        port = free_port()
        self.s.cli("set", "listen", f"127.0.0.1:{port}")
        to = [w for h in HOSTS for w in ("--connect-to", f"{h}:443:127.0.0.1:{self.server.port}",
                                         "--connect-to", f"{h}:80:127.0.0.1:{self.plain.port}")]
        self.s.serve("--upstream-ca", sallyport.certs() / "root.pem", *to, listen=f"127.0.0.1:{port}")
        self.env = environment(self.s)
        self.placeholder = self.env.get("AWS_ACCESS_KEY_ID", "AKIAPLACEHOLDER00000")
        self.env.update(AWS_ACCESS_KEY_ID=self.placeholder, AWS_DEFAULT_REGION=REGION, AWS_EC2_METADATA_DISABLED="true",
                        AWS_MAX_ATTEMPTS="1")
        self.env.setdefault("AWS_SECRET_ACCESS_KEY", "placeholder-secret-placeholder-secret-00")
        self.s.canaries.append(self.env["HTTPS_PROXY"].split(":")[2].split("@")[0])

    def seen(self):
        return self.server.seen + self.plain.seen

    def check(self):
        """Nothing was refused, and nothing of the sandbox's keys arrived."""
        for server in (self.server, self.plain):
            assert not server.refused and not server.broken, f"{server.refused} {server.broken}"
            for head in server.heads:
                for word in (self.placeholder, self.env["AWS_SECRET_ACCESS_KEY"], self.env.get("AWS_SESSION_TOKEN", "no token")):
                    assert word not in head, f"the placeholder arrived: {head}"
            server.stop()
        assert self.seen(), "the server saw nothing"


def need_botocore(t):
    try:
        import boto3  # noqa: F401
    except ImportError:
        t.skip("Python has no boto3")


def python(a, code):
    return run([sys.executable, "-c", code], a.env, timeout=90)


def cli(a, *args, **options):
    return run(["/usr/bin/aws", "--region", REGION, *args], a.env, timeout=120, **options)


def need_cli(t):
    if not pathlib.Path("/usr/bin/aws").exists():
        t.skip("the AWS CLI is not installed")


def file(a, n, name="data"):
    path = a.s.dir / name
    path.write_bytes(hashlib.shake_256(name.encode()).digest(n))
    return path


def test_cli(t):
    """AWS CLI: copies a file up and down, lists, removes"""
    need_cli(t)
    a = Aws(t)
    data = file(a, 100_000)
    cli(a, "s3", "cp", data, "s3://bucket/dir/a file ü+.bin")
    assert "a file ü+.bin" in cli(a, "s3", "ls", "s3://bucket/dir/")
    cli(a, "s3", "cp", "s3://bucket/dir/a file ü+.bin", a.s.dir / "back")
    assert (a.s.dir / "back").read_bytes() == data.read_bytes()
    cli(a, "s3", "rm", "s3://bucket/dir/a file ü+.bin")
    assert not a.server.objects
    a.check()
    a.s.wait_record({"method": "PUT", "credential": "aws", "status": 200})


def test_cli_multipart(t):
    """AWS CLI: a multipart upload and a download in ranges"""
    need_cli(t)
    a = Aws(t)
    (a.s.dir / "config").write_text("[default]\ns3 =\n  multipart_threshold = 5MB\n  multipart_chunksize = 5MB\n  max_concurrent_requests = 4\n")
    a.env["AWS_CONFIG_FILE"] = str(a.s.dir / "config")
    data = file(a, 23_000_001)
    cli(a, "s3", "cp", data, "s3://bucket/big")
    cli(a, "s3", "cp", "s3://bucket/big", a.s.dir / "back")
    assert (a.s.dir / "back").read_bytes() == data.read_bytes()
    assert sum("partNumber" in n["target"] for n in a.seen()) == 5, [n["target"] for n in a.seen()]
    a.check()


def test_cli_signs_payload(t):
    """AWS CLI told to sign the payload: the hash of the body in the head"""
    need_cli(t)
    a = Aws(t)
    (a.s.dir / "config").write_text("[default]\ns3 =\n  payload_signing_enabled = true\n")
    a.env["AWS_CONFIG_FILE"] = str(a.s.dir / "config")
    data = file(a, 1_000_001)
    cli(a, "s3", "cp", data, "s3://bucket/x")
    assert a.server.objects["bucket", "x"]["data"] == data.read_bytes()
    assert any(n["mode"] == hashlib.sha256(data.read_bytes()).hexdigest() for n in a.seen())
    a.check()


def test_cli_presign(t):
    """AWS CLI: a presigned URL that curl follows"""
    need_cli(t)
    t.need("curl")
    a = Aws(t)
    data = file(a, 5000)
    cli(a, "s3", "cp", data, "s3://bucket/x")
    url = cli(a, "s3", "presign", "s3://bucket/x", "--expires-in", "120").strip()
    assert a.placeholder in url and "X-Amz-Signature" in url, url
    out = subprocess.run(["curl", "-sS", "-f", url], env=a.env, capture_output=True)
    assert out.stdout == data.read_bytes(), (out.returncode, out.stderr, a.server.refused)
    assert a.server.seen[-1]["presigned"], a.server.seen[-1]
    assert "X-Amz-Expires=120" in a.server.seen[-1]["target"]
    a.check()


def test_boto3_s3(t):
    """boto3: objects with checksums in head and trailer, odd names, multipart, presigned PUT and GET"""
    a = Aws(t)
    out = python(a, """
import io, os, boto3, urllib.request, hashlib
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
c = boto3.client('s3', config=Config(signature_version='s3v4'))
data = hashlib.shake_256(b'x').digest(7_000_000)
for key in ('plain', 'a b/c+d=&?#%/ü', 'double//slash', 'dots/./x', '~tilde*'):
    c.put_object(Bucket='bucket', Key=key, Body=data[:1000])
    assert c.get_object(Bucket='bucket', Key=key)['Body'].read() == data[:1000], key
for algorithm in ('CRC32', 'SHA256', 'SHA1'):
    c.put_object(Bucket='bucket', Key=algorithm, Body=io.BytesIO(data), ChecksumAlgorithm=algorithm)
    assert c.get_object(Bucket='bucket', Key=algorithm)['Body'].read() == data
c.upload_fileobj(io.BytesIO(data * 2), 'bucket', 'parts', Config=TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20))
f = io.BytesIO(); c.download_fileobj('bucket', 'parts', f)
assert f.getvalue() == data * 2
url = c.generate_presigned_url('put_object', {'Bucket': 'bucket', 'Key': 'pre signed'}, 60)
urllib.request.urlopen(urllib.request.Request(url, method='PUT', data=data[:5000], headers={'Content-Type': ''}))
url = c.generate_presigned_url('get_object', {'Bucket': 'bucket', 'Key': 'pre signed', 'ResponseContentType': 'a/b'}, 60)
assert urllib.request.urlopen(url).read() == data[:5000]
c.delete_object(Bucket='bucket', Key='plain')
c.delete_objects(Bucket='bucket', Delete={'Objects': [{'Key': 'SHA1'}]})
print(len(c.list_objects_v2(Bucket='bucket')['Contents']))
""")
    assert out == "8\n", out
    a.check()
    modes = {n["mode"] for n in a.seen()}
    assert "STREAMING-UNSIGNED-PAYLOAD-TRAILER" in modes and "UNSIGNED-PAYLOAD" in modes | {"UNSIGNED-PAYLOAD"}, modes


def test_boto3_services(t):
    """boto3: STS, DynamoDB, SQS, IAM, Lambda, CloudWatch, each in its region; bodies without a hash are hashed"""
    a = Aws(t)
    python(a, """
import boto3
boto3.client('sts').get_caller_identity()
boto3.client('dynamodb', region_name='eu-central-1').list_tables()
boto3.client('sqs', region_name='eu-central-1').list_queues()
boto3.client('iam').list_users()
boto3.client('lambda', region_name='eu-west-1').list_functions()
boto3.client('cloudwatch', region_name='us-west-2').list_metrics()
boto3.client('s3', region_name='eu-central-1', config=boto3.session.Config(s3={'addressing_style': 'path'})).list_objects_v2(Bucket='bucket')
""")
    a.check()
    got = {(n["service"], n["region"]) for n in a.seen()}
    assert got == {("sts", "us-east-1"), ("dynamodb", "eu-central-1"), ("sqs", "eu-central-1"), ("iam", "us-east-1"),
                   ("lambda", "eu-west-1"), ("monitoring", "us-west-2"), ("s3", "eu-central-1")}, got


def test_session_token(t):
    """temporary credentials: the session token is sent and signed, in heads and in presigned URLs"""
    a = Aws(t, token="canary-session-token-0123456789abcdef")
    python(a, """
import boto3, urllib.request
from botocore.config import Config
c = boto3.client('s3', config=Config(signature_version='s3v4'))
c.put_object(Bucket='bucket', Key='x', Body=b'hello')
url = c.generate_presigned_url('get_object', {'Bucket': 'bucket', 'Key': 'x'}, 60)
assert urllib.request.urlopen(url).read() == b'hello'
""")
    a.check()


def test_signed_coding(t):
    """boto3 that signs an Accept-Encoding of which a part is cut: what goes out is signed as it goes out"""
    a = Aws(t)
    python(a, """
import boto3
from botocore.config import Config
c = boto3.client('s3', config=Config(signature_version='s3v4'))
def ask(request, **kw):
    request.headers['Accept-Encoding'] = 'br, gzip;q=0.5, zstd'
c.meta.events.register('before-sign.s3.GetObject', ask)
def signed(request, **kw):
    assert 'accept-encoding;' in str(request.headers['Authorization'])
c.meta.events.register('before-send.s3.GetObject', signed)
c.put_object(Bucket='bucket', Key='x', Body=b'data')
assert c.get_object(Bucket='bucket', Key='x')['Body'].read() == b'data'
""")
    head = a.server.heads[-1].lower()
    assert "accept-encoding: gzip;q=0.5\n" in head and re.search("signedheaders=[^,]*accept-encoding", head), head
    a.check()


def test_other_host(t):
    """a host that is not Amazon's signs with the fields' region and service, path-style, whatever the client signed for"""
    a = Aws(t, host=["minio.test"], fields={"access_key_id": ACCESS, "region": "garage", "service": "s3"})
    python(a, """
import boto3, urllib.request
from botocore.config import Config
c = boto3.client('s3', endpoint_url='https://minio.test', config=Config(signature_version='s3v4', s3={'addressing_style': 'path'}))
c.put_object(Bucket='bucket', Key='a b/c', Body=b'hello' * 10000, ChecksumAlgorithm='SHA256')
assert c.get_object(Bucket='bucket', Key='a b/c')['Body'].read() == b'hello' * 10000
url = c.generate_presigned_url('get_object', {'Bucket': 'bucket', 'Key': 'a b/c'}, 60)
assert urllib.request.urlopen(url).read() == b'hello' * 10000
""")
    answer = signed_put(a, "x", b"y" * 100_000, 65536, host="minio.test", target="/bucket/x")
    assert answer.startswith("HTTP/1.1 200"), (answer, a.server.refused)
    assert a.server.objects["bucket", "x"]["data"] == b"y" * 100_000
    a.check()
    assert {n["region"] for n in a.seen()} == {"garage"}, a.seen()


def test_account_and_user(t):
    """an access key that is account:user (Swift's tempauth) signs, in heads, presigned URLs and chunks; one that cannot stand in a head is refused"""
    a = Aws(t, access="test:tester@x=1", host=["minio.test"],
            fields={"access_key_id": "test:tester@x=1", "region": "us-east-1", "service": "s3"})
    python(a, """
import boto3, urllib.request
from botocore.config import Config
c = boto3.client('s3', endpoint_url='https://minio.test', config=Config(signature_version='s3v4', s3={'addressing_style': 'path'}))
c.put_object(Bucket='bucket', Key='x', Body=b'hello')
url = c.generate_presigned_url('get_object', {'Bucket': 'bucket', 'Key': 'x'}, 60)
assert urllib.request.urlopen(url).read() == b'hello'
""")
    answer = signed_put(a, "y", b"y" * 100_000, 65536, host="minio.test", target="/bucket/y")
    assert answer.startswith("HTTP/1.1 200"), (answer, a.server.refused)
    a.check()
    for bad in ("a/b", "a,b", "a b", "a\tb", "\u00e9", "a" * 65):
        r = a.s.cli("credential", "add", "bad", "--type", "aws_sigv4", "--host", "minio.test", f"access_key_id={bad}", "region=r", "service=s3",
                    f"secret_access_key=@{a.s.secret_file(SECRET)}", check=False)
        assert r.returncode != 0 and "access_key_id has at most 64 visible characters" in r.stderr or "control" in r.stderr, (bad, r.stderr)


def test_copy(t):
    """boto3 and the AWS CLI copy: within the path that a credential is kept to, and not from another bucket"""
    a = Aws(t, host=["minio.test"], path=["/pub-bucket"], fields={"access_key_id": ACCESS, "region": "garage", "service": "s3"})
    a.server.objects["private-bucket", "secret"] = {"data": b"private", "etag": '"e"', "sum": None, "type": None}
    out = python(a, """
import boto3, botocore
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
c = boto3.client('s3', endpoint_url='https://minio.test', config=Config(signature_version='s3v4', s3={'addressing_style': 'path'}))
c.put_object(Bucket='pub-bucket', Key='a b/ü+?#%', Body=b'hello' * 2_000_000)
def tries(what, *args, **kw):
    try:
        what(*args, **kw)
        return 'ok'
    except botocore.exceptions.ClientError as e:
        return e.response['ResponseMetadata']['HTTPHeaders'].get('x-sallyport-error')
own = {'Bucket': 'pub-bucket', 'Key': 'a b/ü+?#%'}
print(tries(c.copy_object, Bucket='pub-bucket', Key='copy', CopySource=own))
print(tries(c.copy_object, Bucket='pub-bucket', Key='copy2', CopySource='/pub-bucket/copy'))
print(tries(c.copy, own, 'pub-bucket', 'parts', Config=TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=5 << 20)))
print(tries(c.copy_object, Bucket='pub-bucket', Key='stolen', CopySource={'Bucket': 'private-bucket', 'Key': 'secret'}))
print(tries(c.copy_object, Bucket='pub-bucket', Key='stolen', CopySource='private-bucket/secret?versionId=1'))
u = c.create_multipart_upload(Bucket='pub-bucket', Key='stolen')['UploadId']
print(tries(c.upload_part_copy, Bucket='pub-bucket', Key='stolen', UploadId=u, PartNumber=1, CopySource='private-bucket/secret'))
""")
    assert out.split() == ["ok"] * 3 + ["path_not_allowed"] * 3, out
    assert len(a.server.objects["pub-bucket", "copy"]["data"]) == 10_000_000, "the copy is not whole"
    if pathlib.Path("/usr/bin/aws").exists():
        to = ["--endpoint-url", "https://minio.test"]
        cli(a, *to, "s3", "cp", "s3://pub-bucket/copy2", "s3://pub-bucket/copy3", "--copy-props", "none")
        assert ("pub-bucket", "copy3") in a.server.objects
    assert ("pub-bucket", "stolen") not in a.server.objects
    a.check()


def test_copy_bucket_host(t):
    """boto3 copies between buckets that are hosts: a credential kept to one of them is not for the other"""
    a = Aws(t, host=["bucket.s3.us-east-1.amazonaws.com"])
    a.server.objects["jsbucket", "secret"] = {"data": b"private", "etag": '"e"', "sum": None, "type": None}
    out = python(a, """
import boto3, botocore
from botocore.config import Config
c = boto3.client('s3', config=Config(signature_version='s3v4', s3={'addressing_style': 'virtual', 'us_east_1_regional_endpoint': 'regional'}))
c.put_object(Bucket='bucket', Key='a', Body=b'hello')
c.copy_object(Bucket='bucket', Key='b', CopySource={'Bucket': 'bucket', 'Key': 'a'})
try:
    c.copy_object(Bucket='bucket', Key='stolen', CopySource={'Bucket': 'jsbucket', 'Key': 'secret'})
except botocore.exceptions.ClientError as e:
    print(e.response['ResponseMetadata']['HTTPHeaders'].get('x-sallyport-error'))
""")
    assert out == "host_not_allowed\n" and set(a.server.objects) == {("bucket", "a"), ("bucket", "b"), ("jsbucket", "secret")}, out
    a.check()


def test_foreign_presigned(t):
    """a URL that somebody else presigned is not signed again, and carries nothing of ours"""
    a = Aws(t)
    r = a.s.request(host="bucket.s3.us-east-1.amazonaws.com",
                    target="/x?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIASOMEBODYELSE0000%2F20260101%2Fus-east-1%2Fs3%2Faws4_request"
                           "&X-Amz-Date=20260101T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=" + "0" * 64)
    assert r.status == 403 and not a.server.seen, (r.status, a.server.seen)
    assert not any(ACCESS in h for h in a.server.heads)


def javascript(t, scenario):
    """-> what s3client.mjs said, and the Aws"""
    found = node()
    if not found:
        t.skip("Node 22 or its packages are not installed")
    a = Aws(t)
    out = run([found[0], pathlib.Path(__file__).parent / "s3client.mjs", scenario],
              {**a.env, "PACKAGES": str(found[1])}, timeout=120)
    a.check()
    got = json.loads(out)
    assert got["same"], got
    return got, a


def test_js_buffer(t):
    """JavaScript SDK: a buffer there and back, head, list, delete"""
    got, a = javascript(t, "buffer")
    assert got["size"] == 300_001 and got["keys"] == ["a dir/b+ü.bin"], got


def test_js_stream(t):
    """JavaScript SDK: streams with CRC32, CRC32C and SHA256 as trailers"""
    got, a = javascript(t, "stream")
    assert "STREAMING-UNSIGNED-PAYLOAD-TRAILER" in {n["mode"] for n in a.seen()}, a.seen()


def test_js_signed(t):
    """JavaScript SDK: the payload's hash in the head"""
    got, a = javascript(t, "signed")
    assert any(n["method"] == "PUT" and len(n["mode"]) == 64 for n in a.seen()), a.seen()


def test_js_unknown_length(t):
    """JavaScript SDK: a stream of unknown length, which lib-storage sends in parts"""
    got, a = javascript(t, "unknown")
    assert any("partNumber=3" in n["target"] for n in a.seen()), a.seen()


def test_js_presigned(t):
    """JavaScript SDK: presigned PUT and GET"""
    got, a = javascript(t, "presigned")
    assert (got["put_status"], got["get_status"]) == (200, 200), got


# -- signed chunks

def signed_put(a, key, data, size, trailer=None, chunked=False, spoil=None, plain_end=False, wire=None,
               host="bucket.s3.us-east-1.amazonaws.com", target=None):
    """A PUT as the SDKs that sign chunks send it, on `wire` or through the proxy -> the head of the answer. Head and
    chunks are signed by botocore with the keys of the environment: the placeholders."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
    target = target or "/" + key
    mode = STREAMING + ("-TRAILER" if trailer else "")

    class Auth(S3SigV4Auth):
        def payload(self, request):
            return mode

    auth = Auth(Credentials(a.env["AWS_ACCESS_KEY_ID"], a.env["AWS_SECRET_ACCESS_KEY"]), "s3", REGION)
    headers = {"Host": host, "Content-Encoding": "aws-chunked", "x-amz-decoded-content-length": str(len(data))}
    if trailer:
        headers["x-amz-trailer"] = trailer[0]
    request = AWSRequest(method="PUT", url=f"https://{host}{target}", headers=headers)
    auth.add_auth(request)
    last, body, empty = request.headers["Authorization"][-64:], b"", hashlib.sha256(b"").hexdigest()

    def sign(kind, *hashes):
        return auth.signature("\n".join([f"AWS4-HMAC-SHA256-{kind}", request.context["timestamp"],
                                         auth.credential_scope(request), last, *hashes]), request)
    for piece in [data[i:i + size] for i in range(0, len(data), size)] + [b""]:
        last = sign("PAYLOAD", empty, hashlib.sha256(piece).hexdigest())
        body += b"%x;chunk-signature=%s\r\n%s" % (len(piece), last.encode(), piece) + (b"\r\n" if piece or not trailer else b"")
    if trailer:
        line = f"{trailer[0]}:{trailer[1]}\n"
        last = sign("TRAILER", hashlib.sha256(line.encode()).hexdigest())
        body += line.encode() + b"\r\n" if plain_end else line[:-1].encode() + b"\r\n"
        body += f"x-amz-trailer-signature:{last}\r\n\r\n".encode()
    body = spoil(body) if spoil else body
    headers = dict(request.headers.items())
    if chunked:                         # a length that the client did not know when it began
        body = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[i:i + 50_000] for i in range(0, len(body), 50_000))) + b"0\r\n\r\n"
        headers["Transfer-Encoding"] = "chunked"
    else:
        headers["Content-Length"] = len(body)
    wire = wire or a.s.tunnel(host)
    try:
        wire.send(f"PUT {target} HTTP/1.1\r\n".encode() + "".join(f"{n}: {v}\r\n" for n, v in headers.items()).encode() + b"\r\n" + body)
        return read_head(lambda: wire.recv(20)).decode("latin-1")
    finally:
        wire.close()


class Direct:
    """Stands in for Aws where there is no proxy: the real keys, or wrong ones."""

    def __init__(self, server, access=ACCESS, secret=SECRET):
        self.server, self.env = server, {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}

    def put(self, *args, **options):
        wire = Wire(socket.create_connection(("127.0.0.1", self.server.port), 10))
        return signed_put(self, *args, wire=wire, **options)


def test_server_verifies(t):
    """the server of these tests takes what the real key signed, and refuses a wrong key, chunk, trailer, checksum, head"""
    need_botocore(t)
    server, data = S3(ACCESS, SECRET), bytes(range(256)) * 1000
    crc = ("x-amz-checksum-crc32", base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode())
    real = Direct(server)

    def swap(a, b, count=1):
        return lambda body: body[::-1].replace(a[::-1], b[::-1], count)[::-1]     # the last one

    try:
        for options in ({}, {"trailer": crc}, {"trailer": crc, "plain_end": True}, {"chunked": True}):
            answer = real.put("good", data, 65536, **options)
            assert answer.startswith("HTTP/1.1 200"), (options, answer, server.refused)
        assert server.objects["bucket", "good"]["data"] == data
        server.objects.clear()
        for what, answer in [
                ("a wrong secret", Direct(server, secret="x" * 40).put("x", data, 65536)),
                ("a wrong access key", Direct(server, access="AKIAOTHER").put("x", data, 65536)),
                ("another byte in a chunk", real.put("x", data, 65536, spoil=lambda b: b.replace(bytes([7, 8, 9]), bytes([7, 7, 9]), 1))),
                ("another signature of the last chunk", real.put("x", data, 65536, spoil=lambda b: b[:-68] + b"0" * 64 + b[-4:])),
                ("another trailer signature", real.put("x", data, 65536, trailer=crc, spoil=lambda b: b[:-68] + b"0" * 64 + b[-4:])),
                ("another trailer", real.put("x", data, 65536, trailer=crc, spoil=swap(b"==", b"A="))),
                ("a wrong checksum", real.put("x", data, 65536, trailer=(crc[0], "AAAAAA==")))]:
            assert answer.startswith(("HTTP/1.1 403", "HTTP/1.1 400")), (what, answer)
        assert not server.objects and len(server.refused) == 7 and not server.broken, (server.refused, server.broken)
        assert sum("SignatureDoesNotMatch" in r for r in server.refused) >= 4, server.refused
    finally:
        server.stop()


def test_signed_chunks(t):
    """a body signed chunk by chunk arrives with every chunk signed by the real key, at any chunk size"""
    a = Aws(t)
    data = hashlib.shake_256(b"chunks").digest(3_000_000)
    for i, (n, size, chunked) in enumerate([(0, 65536, False), (1, 65536, False), (65536, 65536, False), (300_000, 8192, True),
                                            (3_000_000, 1 << 20, False), (3_000_000, 65536, True), (5000, 77, False)]):
        answer = signed_put(a, f"c{i}", data[:n], size, chunked=chunked)
        assert answer.startswith("HTTP/1.1 200"), (i, answer, a.server.refused)
        assert a.server.objects["bucket", f"c{i}"]["data"] == data[:n]
        assert a.server.seen[-1]["mode"] == STREAMING and a.server.seen[-1]["chunks"] == -(-n // size), a.server.seen[-1]
    a.check()


def test_signed_trailers(t):
    """the same with a signed trailer, in both ways that clients end its line"""
    a = Aws(t)
    data = hashlib.shake_256(b"trailers").digest(200_000)
    crc = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    sha = base64.b64encode(hashlib.sha256(data).digest()).decode()
    for i, (name, value, chunked, plain_end) in enumerate([("x-amz-checksum-crc32", crc, False, False), ("x-amz-checksum-sha256", sha, True, False),
                                                           ("x-amz-checksum-crc32", crc, False, True)]):
        answer = signed_put(a, f"t{i}", data, 65536, trailer=(name, value), chunked=chunked, plain_end=plain_end)
        assert answer.startswith("HTTP/1.1 200"), (i, answer, a.server.refused)
        assert a.server.objects["bucket", f"t{i}"]["data"] == data
        assert a.server.seen[-1]["mode"] == STREAMING + "-TRAILER"
    a.check()


def test_signed_refused(t):
    """a chunk over 1 MiB is a 413 that says what to set, a malformed one a 400; nothing is stored"""
    a = Aws(t)
    data = bytes(2_100_000)
    answer = signed_put(a, "x", data, 1 << 21)
    assert answer.startswith("HTTP/1.1 413") and "x-sallyport-error: body_too_large" in answer.lower(), answer
    for spoil in (lambda b: b.replace(b";chunk-signature=", b";name=x;chunk-signature=", 1), lambda b: b[:-4] + b"xx\r\n"):
        answer = signed_put(a, "x", data[:1000], 1 << 16, spoil=spoil)
        assert answer.startswith("HTTP/1.1 400") and "x-sallyport-error: bad_request" in answer.lower(), answer
    assert not a.server.objects


def four_a_key(access, secret):
    """SigV4a's key pair, from AWS's description: NIST SP 800-108 in counter mode over the two halves of the key."""
    from cryptography.hazmat.primitives.asymmetric import ec
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    for counter in range(1, 255):
        data = b"\0\0\0\1AWS4-ECDSA-P256-SHA256\0" + access.encode() + bytes([counter]) + b"\0\0\1\0"
        number = int.from_bytes(hmac.new(b"AWS4A" + secret.encode(), data, "sha256").digest(), "big")
        if number <= order - 2:
            return ec.derive_private_key(number + 1, ec.SECP256R1())


def four_a_verify(key, q, query=""):
    """Does the request that arrived carry a signature of that key over what it says is signed?"""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    algorithm, rest = q.get("authorization").split(" ", 1)
    part = dict(p.strip().split("=", 1) for p in rest.split(","))
    scope = part["Credential"].split("/", 1)[1]
    names = part["SignedHeaders"].split(";")
    assert algorithm == "AWS4-ECDSA-P256-SHA256" and names == sorted(names) and {"host", "x-amz-date", "x-amz-region-set"} <= set(names)
    canonical = "\n".join(["GET", q.target.partition("?")[0], query, *[f"{n}:{q.get(n).strip()}" for n in names], "",
                           ";".join(names), q.get("x-amz-content-sha256")])
    text = "\n".join([algorithm, q.get("x-amz-date"), scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key.public_key().verify(bytes.fromhex(part["Signature"]), text.encode(), ec.ECDSA(hashes.SHA256()))
    return scope


def test_four_a(t):
    """a SigV4a signature is replaced by one that verifies with the real key's public half, and with no other's"""
    try:
        from cryptography.exceptions import InvalidSignature
    except ImportError:
        t.skip("Python has no cryptography")
    s, up = t.proxy(serve=False)
    hosts = ["b.s3.us-east-1.amazonaws.com", "a.mrap.accesspoint.s3-global.amazonaws.com"]
    up.context.load_cert_chain(certs_module.leaf(sallyport.certs(), s.dir, hosts))
    s.credential({"name": "a", "type": "aws_sigv4", "host": ["*.amazonaws.com"], "secrets": {"secret_access_key": SECRET},
                  "fields": {"access_key_id": ACCESS}})
    s.serve("--upstream-ca", sallyport.certs() / "root.pem",
            *[w for h in hosts for w in ("--connect-to", f"{h}:443:127.0.0.1:{up.port}")])
    theirs = ("AWS4-ECDSA-P256-SHA256 Credential=AKIAPLACEHOLDER00000/20260101/s3/aws4_request, "
              "SignedHeaders=host;x-amz-date;x-amz-region-set, Signature=3045022100aa")
    empty = hashlib.sha256(b"").hexdigest()
    hmac_one = theirs.replace("ECDSA-P256", "HMAC").replace("20260101/s3", "20260101/us-east-1/s3")
    for host, target, query, sent in [(hosts[0], "/bucket/a%20b", "", theirs), (hosts[0], "/k?b=2&a=1", "a=1&b=2", theirs),
                                      (hosts[1], "/k", "", hmac_one), (hosts[1], "/k", "", None)]:
        headers = {"X-Amz-Content-Sha256": empty, **({"Authorization": sent, "X-Amz-Region-Set": "*"} if sent else {})}
        r = s.request(target=target, host=host, headers=headers)
        assert r.status == 200, (r.status, r.body)
        q = up.requests[-1]
        assert "AKIAPLACEHOLDER" not in str(q.fields) and f"Credential={ACCESS}/" in q.get("authorization"), q.fields
        assert four_a_verify(four_a_key(ACCESS, SECRET), q, query).endswith("/s3/aws4_request")
        try:
            four_a_verify(four_a_key(ACCESS, "another"), q, query)
            raise AssertionError("verified with another key")
        except InvalidSignature:
            pass


def test_restic(t):
    """restic (minio-go), which signs chunks where there is no TLS: a backup, checked and restored"""
    t.need("restic")
    a = Aws(t, plain_http=True, port=[80, 443])
    env = {**a.env, "RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": "s3:http://s3.us-east-1.amazonaws.com/bucket/repo",
           "RESTIC_CACHE_DIR": str(a.s.dir / "cache")}
    (a.s.dir / "tree").mkdir()
    (a.s.dir / "tree/data").write_bytes(os.urandom(9_000_000))
    run(["restic", "init"], env)
    run(["restic", "backup", "tree"], env, cwd=a.s.dir, timeout=120)
    run(["restic", "check", "--read-data"], env, timeout=120)
    run(["restic", "restore", "latest", "--target", a.s.dir / "restored"], env, timeout=120)
    got = next((a.s.dir / "restored").glob("**/data"))
    assert got.read_bytes() == (a.s.dir / "tree/data").read_bytes()
    assert any(n["mode"] == STREAMING and n.get("chunks", 0) > 10 for n in a.plain.seen), {n["mode"] for n in a.plain.seen}
    a.check()
