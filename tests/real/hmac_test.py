"""The type hmac: a server that makes every signature again with Python's hmac, and refuses what differs."""
import base64
import hashlib
import hmac
import json
import re
import time

import sallyport

KEY = b"canary-hmac-\xf3\xa4key-0123456789"


def arrange(t, *fields, key=KEY, host="api.test"):
    s, up = t.proxy(serve=False)
    path = s.dir / "key"
    path.write_bytes(key)
    s.canaries.append(key.decode("latin-1"))
    s.cli("credential", "add", "h", "--type", "hmac", "--host", host, f"key=@{path}", *fields)
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    return s, up


def mac(text, key=KEY, how=hashlib.sha256):
    return hmac.new(key, text, how)


def test_header_signature(t):
    """timestamp, method, target and body, from a Base64 key into a Base64 signature; what the agent sent there goes"""
    s, up = arrange(t, "key_encoding=base64", "encoding=base64", "key_id=me", "string={timestamp}{method}{target}{body}",
                    "set.X-Sign={signature}", "set.X-Time={timestamp}", "set.X-Key={key_id}", key=base64.b64encode(KEY))
    for method, target, body in [("GET", "/v1/x?b=2&a=%20", b""), ("POST", "/v1/orders", b'{"a": "\xc3\xa9"}'), ("PUT", "/", b"x" * 300000)]:
        r = s.request(method, target, body=body, headers={"X-Sign": "placeholder", "x_sign": "placeholder", "X-Time": "1"})
        assert r.status == 200, r.body
        q = up.requests[-1]
        assert q.target == target and q.body == body
        now = q.get("x-time")
        assert abs(int(now) - time.time()) < 10 and q.get("x-key") == "me", q.fields
        want = base64.b64encode(mac(now.encode() + method.encode() + target.encode() + body).digest()).decode()
        assert q.get("x-sign") == want, (method, target)
        assert b"placeholder" not in json.dumps(q.fields).encode(), q.fields
    assert s.request("POST", "/", headers={"Content-Length": str(17 << 20)}).status == 413


def test_query_signature(t):
    """parameters are set first, then the query is signed as it goes out, and the signature added"""
    s, up = arrange(t, "string={query}{body}", "query.timestamp={timestamp_ms}", "query.signature={signature}", "algorithm=sha512")
    for target in ("/order?symbol=A%2FB&signature=mine&timestamp=1", "/order"):
        assert s.request("GET", target).status == 200
        path, _, query = up.requests[-1].target.partition("?")
        signed, _, signature = query.rpartition("&signature=")
        assert re.fullmatch(r"(symbol=A%2FB&)?timestamp=\d{13}", signed), query
        assert signature == mac(signed.encode(), how=hashlib.sha512).hexdigest()


def test_everything_signed(t):
    """every name of a template, each algorithm and encoding, a key in hex; two requests differ by their nonce"""
    string = r"{method}\n{host}\n{path}\n{query}\n{iso_ms}\n{nonce}\n{header:content-type}\n{body_hash}\n{{{key_id}}}"
    for algorithm, encoding in (("sha1", "hex"), ("sha256", "base64url"), ("sha384", "base64"), ("sha512", "hex")):
        s, up = arrange(t, "key_encoding=hex", f"algorithm={algorithm}", f"encoding={encoding}", "key_id=k", f"string={string}",
                        "body_hash=sha1", "body_hash_encoding=base64", "set.X-Auth=id={key_id}, at={iso_ms}, n={nonce}, s={signature}",
                        key=KEY.hex().encode())
        seen = set()
        for _ in range(2):
            assert s.request("POST", "/a/b?c=d", body=b"{}", headers={"Content-Type": "application/json"}).status == 200
            q = up.requests[-1]
            at, nonce, signature = re.fullmatch(r"id=k, at=(\S+), n=(\w{32}), s=(\S+)", q.get("x-auth")).groups()
            seen.add(nonce)
            text = "\n".join(["POST", "api.test", "/a/b", "c=d", at, nonce, "application/json",
                              base64.b64encode(hashlib.sha1(b"{}").digest()).decode(), "{k}"])
            raw = mac(text.encode(), how=getattr(hashlib, algorithm))
            want = {"hex": raw.hexdigest(), "base64": base64.b64encode(raw.digest()).decode(),
                    "base64url": base64.urlsafe_b64encode(raw.digest()).decode().rstrip("=")}[encoding]
            assert signature == want, (algorithm, encoding)
        assert len(seen) == 2


def test_streams_where_the_body_is_not_signed(t):
    """a body that no template names is not read: it streams, larger than any limit"""
    s, up = arrange(t, "string={method}{path}", "set.X-Sign={signature}")
    assert s.request("POST", "/up", body=b"z" * (6 << 20)).status == 200
    assert len(up.requests[-1].body) == 6 << 20


def test_fields(t):
    """each mistake is named"""
    s = t.bare()
    s.init()
    key = f"key=@{s.secret_file('canary-key-!!')}"
    for fields, words in [
            ([], ["string", "missing"]), (["string={method}"], ["set", "signature"]), (["string={signature}", "set.x={signature}"], ["string", "{signature}"]),
            (["string={metod}", "set.x={signature}"], ["string", "{metod}"]), (["string={", "set.x={signature}"], ["string", "brace"]),
            (["string=a", "set.x:y={signature}"], ["set", "header"]), (["string=a", "set.x={signature}", "key_encoding=hex"], ["key", "hex"]),
            (["string=a", "set.x={signature}", "key_encoding=base64"], ["key", "base64"]), (["string=a", "set.x={signature}", "algorithm=md5"], ["algorithm", "sha256"]),
            (["string=a\\d", "set.x={signature}"], ["string", "\\n"])]:
        r = s.cli("credential", "add", "x", "--type", "hmac", "--host", "x.test", key, *fields, check=False)
        assert r.returncode == 2 and all(w in r.stderr for w in words), (fields, r.returncode, r.stderr)
        assert "canary" not in r.stderr
