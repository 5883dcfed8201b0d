"""A matrix of certificate paths: which ones an upstream may show, and what is said of the others.

make(dir) -> rows, each with its files in "dir"; `python3 certificates.py DIR` is for tests/unit/tls_test.c, which reads
DIR/matrix.txt. real/certificates_test.py asks `openssl verify` the same and plays them all to the real proxy.
"""
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HOST = "api.corp.test"
KEYS = {"ec": ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "rsa": ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        "rsa1024": ["RSA", "-pkeyopt", "rsa_keygen_bits:1024"], "p384": ["EC", "-pkeyopt", "ec_paramgen_curve:P-384"], "ed": ["ED25519"],
        "pss": ["RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"], "pss1024": ["RSA-PSS", "-pkeyopt", "rsa_keygen_bits:1024"]}
CA = {"basicConstraints": "critical,CA:TRUE", "keyUsage": "critical,keyCertSign,cRLSign", "subjectKeyIdentifier": "hash"}
LEAF = {"subjectAltName": "DNS:" + HOST, "extendedKeyUsage": "serverAuth", "keyUsage": "critical,digitalSignature",
        "authorityKeyIdentifier": "keyid"}
SECTIONS = """
[acme]
O=Acme
[acme_loud]
O=\\  ACME   Corp
[evil]
O=Evil
[german]
C=DE
O=Acme
[empty_dn]
"""
NC, EKU, KU, BC, SAN = "nameConstraints", "extendedKeyUsage", "keyUsage", "basicConstraints", "subjectAltName"
OUTSIDE = "name constraints above it do not allow"
UNKNOWN = "an algorithm we do not know"
ROWS = []


def row(name, want, root=(), inter=(), leaf=(), host=HOST, openssl=None, legacy=False, extra=(), damage=None, bear=None):
    """want: "" where the path is good, else a part of what is said; bear: where BearSSL says another thing. root and leaf: extensions over the usual ones (None takes
    one away), and subject=, key=, md=, self=, pss= (an issuer of RSA signs by RSASSA-PSS); inter: a list of such, the one below the root first. openssl: what it says
    where that is another thing ("accept", "refuse"; "skip": it is not asked)."""
    ROWS.append(dict(name=name, want=want, root=dict(root), inter=[dict(i) for i in inter], leaf=dict(leaf), host=host,
                     openssl=openssl or ("refuse" if want else "accept"), legacy=legacy, extra=[dict(e) for e in extra], damage=damage, bear=bear))


def constrained(name, want, constraints, **more):
    """The same constraint, critical, in the root; in an intermediate; and there not critical."""
    value = "critical," + constraints
    row(name + ": in the root", want, root={NC: value}, **more)
    row(name + ": above an intermediate", want, root={NC: value}, inter=[{"subject": more.get("leaf", {}).get("subject", "") + "/CN=sub"}], **more)
    row(name + ": in an intermediate", want, inter=[{NC: value}], **more)
    row(name + ": not critical", want, inter=[{NC: constraints}], **more)


# -- dNSName
constrained("dNSName within", "", "permitted;DNS:corp.test")
constrained("dNSName outside", OUTSIDE, "permitted;DNS:other.test")
constrained("dNSName excluded", OUTSIDE, "excluded;DNS:corp.test")
row("the name itself", "", root={NC: "critical,permitted;DNS:" + HOST})
row("excluded beats permitted", OUTSIDE, root={NC: "critical,permitted;DNS:corp.test,excluded;DNS:api.corp.test"})
row("one of two permitted", "", root={NC: "critical,permitted;DNS:other.test,permitted;DNS:corp.test"})
row("excluded, another name", "", root={NC: "critical,excluded;DNS:other.test"})
row("not at a dot", OUTSIDE, root={NC: "critical,permitted;DNS:pi.corp.test"})
row("excluded, not at a dot", "", root={NC: "critical,excluded;DNS:pi.corp.test"})
row("below the name", OUTSIDE, root={NC: "critical,permitted;DNS:deep.api.corp.test"})
row("letters in other case", "", root={NC: "critical,permitted;DNS:CORP.Test"})
row("excluded letters in other case", OUTSIDE, root={NC: "critical,excluded;DNS:CORP.Test"})
row("leading dot", "", root={NC: "critical,permitted;DNS:.corp.test"})
row("leading dot, the name itself", OUTSIDE, root={NC: "critical,permitted;DNS:.api.corp.test"})
row("leading dot excludes what is below", OUTSIDE, root={NC: "critical,excluded;DNS:.corp.test"})
row("leading dot does not exclude the name itself", "", root={NC: "critical,excluded;DNS:.api.corp.test"})
row("an empty name permits all", "", root={NC: "critical,DER:30:06:A0:04:30:02:82:00"})
row("an empty name excludes all", OUTSIDE, root={NC: "critical,DER:30:06:A1:04:30:02:82:00"})
row("one name of several outside", OUTSIDE, root={NC: "critical,permitted;DNS:corp.test"}, leaf={SAN: f"DNS:{HOST},DNS:api.github.com"})
row("a trailing dot in a constraint", "malformed", root={NC: "critical,excluded;DNS:corp.test."}, openssl="accept")
row("a wildcard in a constraint", "malformed", root={NC: "critical,excluded;DNS:*.corp.test"}, openssl="accept")
row("a wildcard within", "", root={NC: "critical,permitted;DNS:corp.test"}, leaf={SAN: "DNS:*.corp.test"})
row("a wildcard within a leading dot", "", root={NC: "critical,permitted;DNS:.corp.test"}, leaf={SAN: "DNS:*.corp.test"})
row("a wildcard wider than what is permitted", OUTSIDE, root={NC: "critical,permitted;DNS:" + HOST}, leaf={SAN: "DNS:*.corp.test"})
# RFC 5280 says nothing of wildcards; OpenSSL compares their letters, so that this one reaches what was excluded.
row("a wildcard that covers what is excluded", OUTSIDE, root={NC: "critical,excluded;DNS:secret.corp.test"}, leaf={SAN: "DNS:*.corp.test"}, openssl="accept")
row("a wildcard above what is excluded", "", root={NC: "critical,excluded;DNS:a.secret.corp.test"}, leaf={SAN: "DNS:*.corp.test"})
row("the intermediate's own name outside", OUTSIDE, root={NC: "critical,permitted;DNS:corp.test"}, inter=[{SAN: "DNS:evil.test"}])
row("the upper of two intermediates", OUTSIDE, inter=[{NC: "critical,permitted;DNS:other.test"}, {}])
row("the lower widens what the upper has", OUTSIDE, inter=[{NC: "critical,permitted;DNS:other.test"}, {NC: "critical,permitted;DNS:corp.test"}])
row("both fit", "", inter=[{NC: "critical,permitted;DNS:corp.test"}, {NC: "critical,permitted;DNS:api.corp.test"}])
row("no dNSName is no concern of theirs", "", root={NC: "critical,permitted;DNS:other.test"}, leaf={SAN: "IP:10.1.2.3"}, host="10.1.2.3")
# -- iPAddress
IP4 = dict(host="10.1.2.3", leaf={SAN: "IP:10.1.2.3"})
IP6 = dict(host="fd00::1", leaf={SAN: "IP:fd00::1"})
constrained("IPv4 within", "", "permitted;IP:10.0.0.0/255.0.0.0", **IP4)
constrained("IPv4 outside", OUTSIDE, "permitted;IP:192.168.0.0/255.255.0.0", **IP4)
row("IPv4 excluded", OUTSIDE, root={NC: "critical,excluded;IP:10.1.2.3/255.255.255.255"}, **IP4)
row("IPv4 excluded, beside it", "", root={NC: "critical,excluded;IP:10.1.2.4/255.255.255.255"}, **IP4)
row("IPv4, nothing of the mask", "", root={NC: "critical,permitted;IP:0.0.0.0/0.0.0.0"}, **IP4)
row("IPv4, a mask within a byte", OUTSIDE, root={NC: "critical,permitted;IP:10.1.2.4/255.255.255.252"}, **IP4)
row("IPv6 within", "", root={NC: "critical,permitted;IP:fd00::/ffff::"}, **IP6)
row("IPv6 outside", OUTSIDE, root={NC: "critical,permitted;IP:2001:db8::/ffff:ffff::"}, **IP6)
row("IPv6 excluded", OUTSIDE, root={NC: "critical,excluded;IP:fd00::/ffff::"}, **IP6)
row("IPv4 where IPv6 is permitted", OUTSIDE, root={NC: "critical,permitted;IP:fd00::/ffff::"}, **IP4)
row("IPv4 where IPv6 is excluded", "", root={NC: "critical,excluded;IP:::/::"}, **IP4)
row("a name where addresses are excluded", "", root={NC: "critical,excluded;IP:0.0.0.0/0.0.0.0"})
row("a mask with holes", "malformed", root={NC: "critical,permitted;IP:10.0.0.0/255.0.255.0"}, openssl="accept", **{**IP4, "leaf": {SAN: "IP:10.1.0.3"}, "host": "10.1.0.3"})
row("an address of four bytes without a mask", "malformed", root={NC: "critical,DER:30:0A:A1:08:30:06:87:04:0A:01:02:03"}, **IP4)
# -- directoryName
ACME, EVIL = {"subject": "/O=Acme/CN=x"}, {"subject": "/O=Evil/CN=x"}
constrained("directoryName within", "", "permitted;dirName:acme", leaf=ACME)
row("directoryName outside", OUTSIDE, root={NC: "critical,permitted;dirName:acme"}, leaf=EVIL)
row("directoryName outside, not critical", OUTSIDE, root={NC: "permitted;dirName:acme"}, leaf=EVIL)
row("an intermediate of another directoryName", OUTSIDE, root={NC: "critical,permitted;dirName:acme"}, inter=[EVIL], leaf=ACME)
row("no subject at all", "", root={NC: "critical,permitted;dirName:acme"}, leaf={"subject": "/", SAN: "critical,DNS:" + HOST})
row("neither case nor spaces count", "", root={NC: "critical,permitted;dirName:acme_loud"}, leaf={"subject": "/O=Acme corp /CN=x"})
row("directoryName excluded", OUTSIDE, root={NC: "critical,excluded;dirName:evil"}, leaf=EVIL)
row("directoryName excluded, in other letters", OUTSIDE, root={NC: "critical,excluded;dirName:evil"}, leaf={"subject": "/O=EVIL /CN=x"})
row("directoryName not excluded", "", root={NC: "critical,excluded;dirName:evil"}, leaf=ACME)
row("directoryName shorter than what is permitted", OUTSIDE, root={NC: "critical,permitted;dirName:german"}, leaf={"subject": "/C=DE"})
row("directoryName in another order", OUTSIDE, root={NC: "critical,permitted;dirName:german"}, leaf={"subject": "/O=Acme/C=DE"})
row("directoryName of two parts", "", root={NC: "critical,permitted;dirName:german"}, leaf={"subject": "/C=DE/O=Acme/CN=x"})
row("a directoryName among the other names", OUTSIDE, root={NC: "critical,permitted;dirName:acme"}, leaf={**ACME, SAN: f"DNS:{HOST},dirName:evil"})
row("an empty directoryName permits all", "", root={NC: "critical,DER:30:08:A0:06:30:04:A4:02:30:00"}, leaf=EVIL)
row("excluded letters that we cannot compare", OUTSIDE, root={NC: "critical,DER:30:1A:A1:18:30:16:A4:14:30:12:31:10:30:0E:06:03:55:04:0A:1E:07:00:45:00:76:00:69:00"},
    leaf=EVIL, openssl="skip")
row("self-issued intermediates are exempt", "", root={"subject": "/O=Root {n}", NC: "critical,permitted;dirName:acme"}, inter=[{"subject": "/O=Root {n}"}], leaf=ACME)
row("a self-issued leaf is not", OUTSIDE, root={"subject": "/O=Root {n}", NC: "critical,permitted;DNS:other.test"}, leaf={"subject": "/O=Root {n}"})
# -- other forms, and what no constraint may be. OpenSSL takes a critical one on mail addresses where there is none below.
row("mail addresses, critical", "form we do not know", root={NC: "critical,permitted;DNS:corp.test,permitted;email:corp.test"}, openssl="accept")
row("mail addresses, critical, in an intermediate", "form we do not know", inter=[{NC: "critical,permitted;email:corp.test"}], openssl="accept")
row("mail addresses, not critical, none below", "", root={NC: "permitted;DNS:corp.test,permitted;email:corp.test"})
row("mail addresses, not critical, one below", OUTSIDE, root={NC: "permitted;email:corp.test"}, leaf={SAN: f"DNS:{HOST},email:me@evil.test"})
row("mail addresses excluded, one below", OUTSIDE, root={NC: "excluded;email:corp.test"}, leaf={SAN: f"DNS:{HOST},email:me@corp.test"})
row("URIs, critical", "form we do not know", root={NC: "critical,permitted;URI:.corp.test"}, openssl="accept")
row("a registered id, critical", "form we do not know", root={NC: "critical,excluded;RID:1.2.3.4"}, openssl="accept")
row("another name, critical", "form we do not know", root={NC: "critical,excluded;otherName:1.2.3.4;UTF8:x"}, openssl="accept")
row("a minimum of 0, spelled out", "", root={NC: "critical,DER:30:12:A0:10:30:0E:82:09:63:6F:72:70:2E:74:65:73:74:80:01:00"})
row("a minimum of 1", "malformed", root={NC: "critical,DER:30:12:A0:10:30:0E:82:09:63:6F:72:70:2E:74:65:73:74:80:01:01"})
row("a maximum", "malformed", root={NC: "critical,DER:30:12:A0:10:30:0E:82:09:63:6F:72:70:2E:74:65:73:74:81:01:05"})
row("no constraint in it", "malformed", root={NC: "critical,DER:30:00"}, openssl="accept")
row("nothing permitted in it", "malformed", root={NC: "critical,DER:30:02:A0:00"}, openssl="accept")
row("excluded before permitted", "malformed", root={NC: "critical,DER:30:0C:A1:04:30:02:82:00:A0:04:30:02:82:00"})
row("something behind it", "malformed", root={NC: "critical,DER:30:06:A0:04:30:02:82:00:00"}, openssl="skip")
row("constraints in the leaf", "malformed", leaf={NC: "permitted;DNS:corp.test"}, openssl="accept")
row("critical constraints in the leaf", "malformed", leaf={NC: "critical,permitted;DNS:corp.test"}, openssl="accept")
# -- who may issue
for purpose, want in ("clientAuth", "not meant for servers"), ("emailProtection", "not meant for servers"), ("codeSigning,OCSPSigning", "not meant for servers"), \
        ("serverAuth", ""), ("clientAuth,serverAuth", ""), ("anyExtendedKeyUsage", ""):
    row("an intermediate for " + purpose, want, inter=[{EKU: purpose}], openssl="skip" if purpose.startswith("any") else None)
row("the upper of two for clientAuth", "not meant for servers", inter=[{EKU: "clientAuth"}, {EKU: "serverAuth"}])
row("a root for clientAuth", "not meant for servers", root={EKU: "clientAuth"})
row("a root for serverAuth", "", root={EKU: "serverAuth"})
row("a leaf for clientAuth", "certificate not meant for servers", leaf={EKU: "clientAuth"})
row("an intermediate whose key may not sign certificates", "an issuer is not a CA", inter=[{KU: "critical,digitalSignature,cRLSign"}])
row("a root whose key may not sign certificates", "an issuer is not a CA", root={KU: "critical,digitalSignature,cRLSign"})
row("an intermediate that says nothing of its key", "", inter=[{KU: None}])
row("an intermediate that is no CA", "an issuer is not a CA", inter=[{BC: "critical,CA:FALSE"}])
row("an intermediate without basicConstraints", "an issuer is not a CA", inter=[{BC: None}])
row("a root that is no CA", "an issuer is not a CA", root={BC: "critical,CA:FALSE"})
row("a root without basicConstraints", "an issuer is not a CA", root={BC: None, KU: None})
row("a root's pathlen 0 kept", "", root={BC: "critical,CA:TRUE,pathlen:0"})
row("a root's pathlen 0 broken", "more authorities", root={BC: "critical,CA:TRUE,pathlen:0"}, inter=[{}])
row("a root's pathlen 1 kept", "", root={BC: "critical,CA:TRUE,pathlen:1"}, inter=[{}])
row("a root's pathlen 1 broken", "more authorities", root={BC: "critical,CA:TRUE,pathlen:1"}, inter=[{}, {}])
row("an intermediate's pathlen 0 broken", "more authorities", inter=[{BC: "critical,CA:TRUE,pathlen:0"}, {}])
row("an intermediate's pathlen 0 kept", "", inter=[{}, {BC: "critical,CA:TRUE,pathlen:0"}])
row("self-issued ones do not count", "", root={"subject": "/O=Root {n}", BC: "critical,CA:TRUE,pathlen:0"}, inter=[{"subject": "/O=Root {n}"}])
row("basicConstraints of another shape", "malformed", inter=[{BC: "critical,DER:30:06:01:01:FF:02:01:80"}])
# -- the leaf's names
row("a CN alone", "subjectAltName", leaf={SAN: None, "subject": "/CN=" + HOST}, openssl="accept")
row("a wildcard CN alone", "subjectAltName", leaf={SAN: None, "subject": "/CN=*.corp.test"}, openssl="accept")
row("a CN beside an other name", "name mismatch", leaf={SAN: "DNS:other.test", "subject": "/CN=" + HOST})
row("a CN beside a mail address", "name mismatch", leaf={SAN: "email:a@b.test", "subject": "/CN=" + HOST}, openssl="accept")
row("legacy: a CN alone", "", leaf={SAN: None, "subject": "/CN=" + HOST}, legacy=True)
row("legacy: a wildcard CN", "", leaf={SAN: None, "subject": "/CN=*.corp.test"}, legacy=True)
row("legacy: another CN", "name mismatch", leaf={SAN: None, "subject": "/CN=www.corp.test"}, legacy=True)
row("legacy: a CN that is the address", "", leaf={SAN: None, "subject": "/CN=10.1.2.3"}, host="10.1.2.3", legacy=True, openssl="skip")
row("legacy: a CN that is another address", "name mismatch", leaf={SAN: None, "subject": "/CN=10.1.2.4"}, host="10.1.2.3", legacy=True)
row("legacy: a CN beside an other name", "name mismatch", leaf={SAN: "DNS:other.test", "subject": "/CN=" + HOST}, legacy=True)
row("legacy: a CN beside a mail address", "name mismatch", leaf={SAN: "email:a@b.test", "subject": "/CN=" + HOST}, legacy=True, openssl="accept")
row("legacy: constraints hold for a CN", OUTSIDE, root={NC: "critical,permitted;DNS:other.test"}, leaf={SAN: None, "subject": "/CN=" + HOST}, legacy=True)
row("legacy: constraints hold for an address as CN", OUTSIDE, root={NC: "critical,excluded;IP:10.0.0.0/255.0.0.0"},
    leaf={SAN: None, "subject": "/CN=10.1.2.3"}, host="10.1.2.3", legacy=True, openssl="skip")
row("legacy: an issuer must still be a CA", "an issuer is not a CA", inter=[{BC: "critical,CA:FALSE"}], legacy=True)
row("a NUL in a name", "NUL", leaf={SAN: "DER:30:15:82:13" + "".join(f":{b:02X}" for b in b"api.corp.test\0.evil")}, openssl="refuse")
row("a NUL in a name beside the right one", "NUL", leaf={SAN: "DER:30:14:82:0D" + "".join(f":{b:02X}" for b in HOST.encode()) + ":82:03:61:00:62"}, openssl="accept")
row("a wildcard for two labels", "name mismatch", leaf={SAN: "DNS:*.test"})
row("a wildcard for all below a top-level name", "", leaf={SAN: "DNS:*.test"}, host="corp.test", openssl="refuse")
row("a wildcard of a name with an underscore", "", leaf={SAN: "DNS:*.corp.test"}, host="my_api.corp.test", openssl="refuse")
row("a name with an underscore", "", leaf={SAN: "DNS:my_api.corp.test"}, host="my_api.corp.test")
row("a wildcard that is an A-label's", "", leaf={SAN: "DNS:*.corp.test"}, host="xn--bcher-kva.corp.test")
row("a wildcard within an A-label", "name mismatch", leaf={SAN: "DNS:xn--*.corp.test"}, host="xn--bcher-kva.corp.test")
row("two wildcards", "name mismatch", leaf={SAN: "DNS:*.*.test"})
row("a wildcard that is no first label", "name mismatch", leaf={SAN: "DNS:api.*.test"})
row("a wildcard within a label", "name mismatch", leaf={SAN: "DNS:a*.corp.test"}, openssl="accept")
row("a name in capitals", "", leaf={SAN: "DNS:API.Corp.TEST"})
# -- keys and signatures
row("a leaf without digitalSignature", "digitalSignature", leaf={KU: "critical,keyEncipherment"}, openssl="accept")
row("a leaf of RSA, for both", "", leaf={KU: "critical,digitalSignature,keyEncipherment", "key": "rsa"})
row("a root of RSA 1024", "under 2048", root={"key": "rsa1024"})
row("an intermediate of RSA 1024", "under 2048", inter=[{"key": "rsa1024"}])
row("a root of RSA 2048", "", root={"key": "rsa"})
row("an intermediate signed with SHA-1", "weak certificate signature", root={"key": "rsa"}, inter=[{"md": "sha1"}])
row("a root's own signature is not asked", "", root={"key": "rsa", "md": "sha1"})
row("a damaged leaf", "bad certificate signature (damaged", damage="leaf", openssl="refuse")
row("a damaged leaf below an intermediate", "bad certificate signature", inter=[{}], damage="leaf", openssl="refuse")
row("a damaged intermediate", "bad certificate signature (damaged", inter=[{}], damage="inter0", openssl="refuse")
# -- and those that OpenSSL has and BearSSL does not
for kind, want in ("p384", None), ("ed", UNKNOWN), ("pss", UNKNOWN):
    K = {"key": kind}
    row(f"a root of {kind}", "", root=K, bear=want)
    row(f"an intermediate of {kind}", "", inter=[K], bear=want)
    row(f"all three of {kind}, constraints that hold", "", root={**K, NC: "critical,permitted;DNS:corp.test"}, inter=[K], leaf=K, bear=want)
    row(f"all three of {kind}, outside what is permitted", OUTSIDE, root=K, inter=[{**K, NC: "permitted;DNS:other.test"}], leaf=K, bear=want)
    row(f"all three of {kind}, a damaged leaf", "bad certificate signature", root=K, inter=[K], leaf=K, damage="leaf", openssl="refuse", bear=want)
for kind in "ed", "pss":
    K = {"key": kind}
    row(f"a leaf of {kind}", "", leaf=K, bear=UNKNOWN)
    row(f"a leaf of {kind}, another name", "name mismatch", leaf={**K, SAN: "DNS:other.test"}, bear=UNKNOWN)
    row(f"all three of {kind}, no CA between", "an issuer is not a CA", root=K, inter=[{**K, BC: "critical,CA:FALSE"}], leaf=K, bear=UNKNOWN)
    row(f"all three of {kind}, a damaged intermediate", "bad certificate signature", root=K, inter=[K], leaf=K, damage="inter0", openssl="refuse", bear=UNKNOWN)
row("signed by RSASSA-PSS with a key of RSA", "", root={"key": "rsa"}, leaf={"pss": True}, bear=UNKNOWN)
row("signed by RSASSA-PSS with SHA-1", "weak certificate signature", root={"key": "rsa"}, inter=[{"pss": True, "md": "sha1"}], bear=UNKNOWN)
row("a root of RSASSA-PSS 1024", "under 2048", root={"key": "pss1024"}, bear=UNKNOWN)
# -- what we do not know
for where in "root", "inter", "leaf":
    value = {"1.2.3.4.5": "critical,DER:05:00"}
    row("an unknown critical extension: " + where, "critical extension", **{where: [value] if where == "inter" else value})
row("an unknown extension", "", inter=[{"1.2.3.4.5": "DER:05:00"}])
row("a critical policy", "", inter=[{"certificatePolicies": "critical,1.2.3.4"}])
row("inhibitAnyPolicy, critical", "", inter=[{"inhibitAnyPolicy": "critical,0"}])
row("policyConstraints, critical", "critical extension", inter=[{"policyConstraints": "critical,requireExplicitPolicy:3"}], openssl="accept")
# -- more than one way, and none
row("two intermediates of one name: the other may not", "", inter=[{}], extra=[{"as": "inter0", EKU: "clientAuth"}], openssl="skip")
row("two intermediates of one name: another key", "", inter=[{}], extra=[{"as": "inter0", "own_key": True}], openssl="skip")
row("eight intermediates of one name, the right one last", "", inter=[{}], extra=[{"as": "inter0", "own_key": True}] * 7, openssl="skip")
row("more ways than anybody needs", "chain too large", inter=[{}, {}], damage="inter0",
    extra=[{"as": "inter1"}] * 3 + [{"as": "inter0", "own_key": True}] * 4, openssl="skip")
row("more certificates than anybody needs", "chain too large", inter=[{}], extra=[{"as": "inter0"}] * 12, openssl="skip")
row("more bytes than anybody needs", "chain too large", inter=[{}], openssl="skip",
    extra=[{"as": "inter0", "1.2.3.4.5": "DER:04:82:27:10" + ":41" * 10000}] * 7)
# Whoever has the key of a constrained root can make its copy without constraints, or name itself as it likes.
row("a copy of the root without its constraints", OUTSIDE, root={"subject": "/O=Root {n}", NC: "critical,permitted;DNS:other.test"}, extra=[{"as": "root"}])


def openssl(*args, check=True):
    r = subprocess.run(["openssl", *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if check and r.returncode != 0:
        raise RuntimeError(f"openssl {' '.join(map(str, args))}: {r.stderr}")
    return r


def new_key(path, kind):
    openssl("genpkey", "-algorithm", *KEYS[kind], "-out", path)
    openssl("pkey", "-in", path, "-pubout", "-out", f"{path}.pub")


class Path:
    """One row's certificates: root.crt, chain.pem (the leaf first) and leaf.key."""

    def __init__(self, home, keys, spec, number):
        self.home, self.keys, self.spec, self.number = home, keys, spec, number

    def key(self, who, of):
        return self.keys / f"{who}-{of.get('key', 'ec')}.key"

    def sign(self, name, usual, spec, issuer):
        subject = spec.get("subject", f"/CN={name} {{n}}").replace("{n}", str(self.number))
        fields = {**usual, **{k: v for k, v in spec.items() if k not in ("subject", "key", "md", "as", "own_key", "pss")}}
        ext = self.home / f"{name}.ext"
        ext.write_text("[x]\n" + "".join(f"{k}={v}\n" for k, v in fields.items() if v is not None) + SECTIONS)
        who = "other" if spec.get("own_key") else spec.get("as", name)
        crt, key = self.home / f"{name}.crt", self.key(who, spec)
        by = ["-signkey", key] if issuer is None else ["-CA", self.home / f"{issuer[0]}.crt", "-CAkey", issuer[1], "-force_pubkey", f"{key}.pub"]
        openssl("x509", "-new", "-subj", subject, "-days", "30", "-extfile", ext, "-extensions", "x", "-set_serial", self.number + 1,
                "-" + spec.get("md", "sha256"), *(["-sigopt", "rsa_padding_mode:pss"] if spec.get("pss") else []), *by, "-out", crt)
        return name, key

    def make(self):
        s = self.spec
        self.home.mkdir()
        issuer = top = self.sign("root", CA, s["root"], None)
        by = {"root": None}
        for i, spec in enumerate(s["inter"]):
            by[f"inter{i}"] = issuer
            issuer = self.sign(f"inter{i}", CA, spec, issuer)
        self.sign("leaf", LEAF, s["leaf"], issuer)
        chain = ["leaf"]
        for i, spec in enumerate(s["extra"]):
            as_ = spec["as"]
            copied = {"subject": f"/CN={as_} {{n}}", **{k: v for k, v in (s["root"] if as_ == "root" else s["inter"][int(as_[5:])]).items()
                                                               if k in ("subject", "key")}, **spec}
            chain.append(self.sign(f"extra{i}", CA, copied, by[as_])[0])
        chain += [f"inter{i}" for i in reversed(range(len(s["inter"])))]
        if s["damage"]:
            der = self.home / "damaged.der"
            openssl("x509", "-in", self.home / f"{s['damage']}.crt", "-outform", "der", "-out", der)
            b = bytearray(der.read_bytes())
            b[-3] ^= 1
            der.write_bytes(b)
            openssl("x509", "-inform", "der", "-in", der, "-out", self.home / f"{s['damage']}.crt")
        (self.home / "chain.pem").write_text("".join((self.home / f"{c}.crt").read_text() for c in chain))
        (self.home / "leaf.key").write_text(self.key("leaf", s["leaf"]).read_text())
        return top


def make(out):
    """Once: later callers find them there, and matrix.txt. They last for 30 days."""
    out = pathlib.Path(out)
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        work = pathlib.Path(tempfile.mkdtemp(dir=out.parent))
        keys = work / "keys"
        keys.mkdir()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda a: new_key(keys / f"{a[0]}-{a[1]}.key", a[1]),
                          [(who, "ec") for who in ("root", "inter0", "inter1", "leaf", "other")]
                          + [("root", "rsa"), ("leaf", "rsa"), ("root", "rsa1024"), ("inter0", "rsa1024"), ("root", "pss1024")]
                          + [(who, kind) for who in ("root", "inter0", "leaf") for kind in ("p384", "ed", "pss")]))
            list(pool.map(lambda a: Path(work / f"{a[0]:03}", keys, a[1], a[0]).make(), enumerate(ROWS)))
        (work / "matrix.txt").write_text("".join(
            f"{i:03}\t{s['host']}\t{int(s['legacy'])}\t{s['want'] if s['bear'] is None else s['bear']}\t{s['name']}\n" for i, s in enumerate(ROWS)))
        try:
            os.rename(work, out)
        except OSError:      # another process was first
            shutil.rmtree(work)
    for i, spec in enumerate(ROWS):
        spec["dir"] = out / f"{i:03}"
    return ROWS


def judge(spec):
    """What `openssl verify` says: "accept", or "refuse" and why."""
    d, host = spec["dir"], spec["host"]
    r = openssl("verify", "-auth_level", "2", "-purpose", "sslserver", "-verify_ip" if host[-1].isdigit() else "-verify_hostname", host,
                "-CAfile", d / "root.crt", "-untrusted", d / "chain.pem", d / "leaf.crt", check=False)
    return "accept" if r.returncode == 0 else "refuse " + r.stderr


if __name__ == "__main__":
    make(sys.argv[1])
